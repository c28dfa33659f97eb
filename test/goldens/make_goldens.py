"""Makes the correctness goldens of this folder with PyTorch and transformers, computed in float64.

    python test/goldens/make_goldens.py            # every case
    python test/goldens/make_goldens.py gpt2 ...   # some

Each case is a Hugging Face model directory plus golden.safetensors; README.md says what the tensors mean.
Weights are random fp32; the reference casts them up exactly and runs transformers' own modules in float64.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
import transformers
from reference import (
    EAGER,
    Routing,
    float64,
    gradients_of,
    mtp_hidden,
    on_disk,
    open_mtp_model,
    randomise,
    relative,
    tokens,
    wide,
)
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    DeepseekV2Config,
    DeepseekV3Config,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
)
from transformers.modeling_layers import MtpModel

HERE = Path(__file__).resolve().parent
MARGIN = 5e-4  # every routing choice is decided by at least this much; fp32 noise is about 1e-6
NOISE = 3e-6  # transformers' own fp32 gradients are at least this near, so that 1e-5 is a fair bar for others
MTP_LAMBDA = 0.3


# files


def save_model(model, folder):
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    (folder / 'generation_config.json').unlink(missing_ok=True)


def edit_config(folder, change):
    path = folder / 'config.json'
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + '\n')


def save_golden(path, tensors):
    """Floats as F32 (rounded once, from float64), whole numbers as I32."""
    out = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach()
        out[name] = tensor.to(torch.float32 if tensor.is_floating_point() else torch.int32).contiguous().clone()
    save_file(out, str(path))


def report(case, message):
    files = (HERE / case).glob('*')
    print(f'{case}: {sum(f.stat().st_size for f in files) / 1000:.0f} kB; {message}', flush=True)


# cases


def measure(model, ids, labels):
    """Plain cross-entropy in float64: output, every gradient, routing, and how far transformers in fp32 is from them."""
    twin = wide(model)
    routing = Routing(twin)
    with float64():
        out = twin(ids, labels=labels)
        out.loss.backward()
    grads = gradients_of(twin)
    model.zero_grad()
    plain = model(ids, labels=labels)
    plain.loss.backward()
    noise = max(relative(grad, grads[name]) for name, grad in gradients_of(model).items() if grads[name].norm() > 0)
    return out, grads, routing, max(noise, relative(plain.logits, out.logits))


def causal_lm(case, config, batch, length, change_config=None):
    """The common case, with the first seed whose routers decide clearly and whose fp32 noise is small."""
    ids, labels = tokens(config.vocab_size, batch, length, seed=len(case))
    for seed in range(1, 200):
        model = AutoModelForCausalLM.from_config(config, **EAGER).eval()
        randomise(model, seed)
        _, _, routing, noise = measure(model, ids, labels)
        if routing.margin >= MARGIN and noise <= NOISE:
            break
    else:
        raise SystemExit(f'{case}: no seed is clear enough')
    folder = HERE / case
    save_model(model, folder)
    if change_config:
        edit_config(folder, change_config)
    opened, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **EAGER)
    assert not info['missing_keys'] and not info['unexpected_keys'], info
    out, grads, routing, noise = measure(opened.eval(), ids, labels)
    stored = load_file(folder / 'model.safetensors')
    parameters = {name for name in stored if not name.endswith('e_score_correction_bias')}
    assert parameters == set(grads), parameters ^ set(grads)
    assert all(grads[name].shape == stored[name].shape for name in grads)
    save_golden(
        folder / 'golden.safetensors',
        {
            'input_ids': ids,
            'labels': labels,
            'logits': out.logits,
            'loss': out.loss,
            **{f'grad.{name}': grad for name, grad in grads.items()},
        },
    )
    zero = sum(1 for grad in grads.values() if grad.norm() == 0)
    report(
        case,
        f'seed {seed}; loss {out.loss.item():.6f}; worst fp32 noise {noise:.1e}; {zero} gradients are zero; {routing}',
    )


def v3(**changes):
    fields = dict(
        vocab_size=101,
        hidden_size=28,
        intermediate_size=37,
        moe_intermediate_size=5,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=3,
        n_shared_experts=1,
        n_routed_experts=16,
        routed_scaling_factor=2.5,
        q_lora_rank=18,
        kv_lora_rank=12,
        qk_nope_head_dim=10,
        qk_rope_head_dim=6,
        v_head_dim=14,
        n_group=4,
        topk_group=2,
        num_experts_per_tok=3,
        first_k_dense_replace=1,
        max_position_embeddings=64,
        num_nextn_predict_layers=0,
    )
    return DeepseekV3Config(**{**fields, **changes})


def deepseek_v3():
    # Config as DeepSeek publishes it: fields transformers does not know are there too. eps shows which norms use it.
    extra = dict(topk_method='noaux_tc', scoring_func='sigmoid', moe_layer_freq=1, ep_size=1)
    config = v3(num_hidden_layers=3, n_shared_experts=2, rms_norm_eps=1e-3, **extra)
    causal_lm('deepseek_v3', config, batch=2, length=17)


def deepseek_v3_no_q_lora():
    config = v3(vocab_size=97, q_lora_rank=None, norm_topk_prob=False, num_experts_per_tok=4, topk_group=3)
    causal_lm('deepseek_v3_no_q_lora', config, batch=3, length=13)


def deepseek_v3_half_rope():
    causal_lm('deepseek_v3_half_rope', v3(vocab_size=103, rope_interleave=False), batch=2, length=15)


# Ramp of five frequencies: 0, 1/3, 2/3, 1, 1. Positions pass the original 13.
YARN = dict(factor=40, original_max_position_embeddings=13, beta_fast=2, beta_slow=0.25)


def published_rope(config):
    """The form of the published configs: rope_theta and rope_scaling {type} in place of rope_parameters."""
    rope = config.pop('rope_parameters')
    config['rope_theta'] = rope.pop('rope_theta')
    rope['type'] = rope.pop('rope_type')
    config['rope_scaling'] = rope


def deepseek_v3_yarn():
    rope = dict(rope_type='yarn', rope_theta=100.0, mscale=1.0, mscale_all_dim=1.0, **YARN)
    config = v3(
        vocab_size=107, qk_rope_head_dim=10, qk_nope_head_dim=7, max_position_embeddings=520, rope_parameters=rope
    )
    causal_lm('deepseek_v3_yarn', config, batch=2, length=19, change_config=published_rope)


def v2(**changes):
    fields = dict(
        vocab_size=109,
        hidden_size=30,
        intermediate_size=35,
        moe_intermediate_size=7,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=3,
        n_shared_experts=2,
        n_routed_experts=9,
        num_experts_per_tok=3,
        routed_scaling_factor=1.0,
        topk_method='greedy',
        n_group=1,
        topk_group=1,
        q_lora_rank=None,
        kv_lora_rank=14,
        qk_nope_head_dim=8,  # transformers' complex rotation wants even offsets
        qk_rope_head_dim=10,
        v_head_dim=11,
        first_k_dense_replace=1,
        max_position_embeddings=520,
        norm_topk_prob=False,
        scoring_func='softmax',
    )
    return DeepseekV2Config(**{**fields, **changes})


def deepseek_v2():
    rope = dict(rope_type='yarn', rope_theta=100.0, mscale=0.707, mscale_all_dim=0.707, **YARN)
    config = v2(rms_norm_eps=1e-3, rope_parameters=rope)
    causal_lm('deepseek_v2', config, batch=2, length=17, change_config=published_rope)


def deepseek_v2_group():
    config = v2(
        vocab_size=113,
        topk_method='group_limited_greedy',
        n_routed_experts=12,
        n_group=4,
        topk_group=2,
        num_experts_per_tok=4,
        routed_scaling_factor=16.0,
        moe_intermediate_size=5,
        q_lora_rank=17,
        qk_rope_head_dim=6,
        max_position_embeddings=64,
    )
    causal_lm('deepseek_v2_group', config, batch=2, length=15)


def gpt2():
    config = GPT2Config(vocab_size=97, n_embd=27, n_head=3, n_layer=2, n_positions=31, bos_token_id=0, eos_token_id=0)
    causal_lm('gpt2', config, batch=3, length=19)


def dense(family, **changes):
    fields = dict(
        vocab_size=101,
        hidden_size=24,
        intermediate_size=33,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
    )
    return family(**{**fields, **changes})


def llama():
    config = dense(LlamaConfig, num_attention_heads=6, num_key_value_heads=2, eos_token_id=[2, 5], rope_theta=500.0)
    causal_lm('llama', config, batch=2, length=17)


def llama_llama3_rope():
    # Turns within the original 32 positions: 5.1 (kept), 2.4 and 1.1 (between), 0.5, 0.2 and 0.1 (slowed down).
    rope = dict(
        rope_type='llama3',
        rope_theta=100.0,
        factor=8.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=32,
    )
    config = dense(
        LlamaConfig,
        vocab_size=103,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        rope_parameters=rope,
    )
    causal_lm('llama_llama3_rope', config, batch=2, length=40, change_config=published_rope)


def llama_biases():
    rope = dict(rope_type='linear', rope_theta=100.0, factor=2.5)
    config = dense(
        LlamaConfig, vocab_size=97, head_dim=10, attention_bias=True, mlp_bias=True, rope_parameters=rope
    )
    causal_lm('llama_biases', config, batch=3, length=13)


def qwen2():
    config = dense(Qwen2Config, vocab_size=107, tie_word_embeddings=True, rope_theta=1000.0)
    causal_lm('qwen2', config, batch=2, length=15)


def qwen2_yarn():
    # Without mscale: cos and sin are multiplied by 0.1 ln 4 + 1.
    rope = dict(rope_type='yarn', rope_theta=100.0, **{**YARN, 'factor': 4.0})
    config = dense(
        Qwen2Config, vocab_size=109, num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=52,
        rope_parameters=rope,
    )
    causal_lm('qwen2_yarn', config, batch=2, length=19, change_config=published_rope)


def mistral():
    config = dense(MistralConfig, vocab_size=113, head_dim=8, num_key_value_heads=1, sliding_window=None)
    causal_lm('mistral', config, batch=2, length=16)


def packed_documents():
    """The model of deepseek_v3 on two documents run apart, laid out as one packed row."""
    opened = AutoModelForCausalLM.from_pretrained(HERE / 'deepseek_v3', **EAGER)
    lengths = [7, 9]
    for seed in range(1, 200):
        twin = wide(opened)
        routing = Routing(twin)
        ids, labels = tokens(twin.config.vocab_size, 1, sum(lengths), seed)
        parts = list(zip(ids.split(lengths, 1), labels.split(lengths, 1)))
        for _, part in parts:
            part[:, 0] = -100  # no document's end predicts the next one's start (a view: labels changes too)
        with float64():
            logits, loss, grads = run_documents(twin, parts)
        _, _, plain = run_documents(opened, parts)
        noise = max(relative(grad, grads[name]) for name, grad in plain.items() if grads[name].norm() > 0)
        # Half of it: with so few tokens, another order of summation can be several times as far away.
        if routing.margin >= MARGIN and noise <= NOISE / 2:
            break
    else:
        raise SystemExit('packed_documents: no seed is clear enough')
    folder = HERE / 'packed_documents'
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    save_golden(
        folder / 'golden.safetensors',
        {
            'input_ids': ids,
            'labels': labels,
            'document_ids': torch.cat([torch.full((1, n), d) for d, n in enumerate(lengths)], 1),
            'position_ids': torch.cat([torch.arange(n)[None] for n in lengths], 1),
            'logits': logits,
            'loss': loss,
            **{f'grad.{name}': grad for name, grad in grads.items()},
        },
    )
    report('packed_documents', f'seed {seed}; loss {loss.item():.6f}; worst fp32 noise {noise:.1e}; {routing}')


def run_documents(model, parts):
    """Documents one by one: logits, mean loss over all of them and its gradients."""
    model.zero_grad()
    logits = [model(ids).logits for ids, _ in parts]
    count = sum((labels[:, 1:] != -100).sum() for _, labels in parts)
    loss = sum(cross_entropy_sum(x[:, :-1], labels[:, 1:]) for x, (_, labels) in zip(logits, parts)) / count
    loss.backward()
    return torch.cat(logits, 1), loss, gradients_of(model)


def cross_entropy_sum(logits, targets):
    return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction='sum')


# multi-token prediction


def hidden_states(model, ids):
    """The main model's last hidden state before and after its final norm."""
    before = []
    hook = model.model.norm.register_forward_hook(lambda _m, inputs, _o: before.append(inputs[0]))
    after = model.model(ids).last_hidden_state
    hook.remove()
    return before[0], after


def save_mtp_directory(folder, config, seed):
    """As DeepSeek stores it: the module is one more decoder layer, with its own copies of embedding and head."""
    layers = config.num_hidden_layers
    longer = DeepseekV3Config(**{**config.to_dict(), 'num_hidden_layers': layers + 1, 'num_nextn_predict_layers': 1})
    model = AutoModelForCausalLM.from_config(longer)
    randomise(model, seed)
    save_model(model, folder)
    tensors = load_file(folder / 'model.safetensors')
    generator = torch.Generator().manual_seed(seed + 1000)
    width = config.hidden_size
    prefix = f'model.layers.{layers}.'
    tensors[prefix + 'embed_tokens.weight'] = tensors['model.embed_tokens.weight'].clone()
    tensors[prefix + 'shared_head.head.weight'] = tensors['lm_head.weight'].clone()
    for norm in ('enorm', 'hnorm', 'shared_head.norm'):
        tensors[f'{prefix}{norm}.weight'] = 1 + 0.25 * torch.randn(width, generator=generator)
    tensors[prefix + 'eh_proj.weight'] = torch.randn(width, 2 * width, generator=generator) / width**0.5
    save_file(tensors, str(folder / 'model.safetensors'), metadata={'format': 'pt'})
    edit_config(folder, lambda c: c.update(num_hidden_layers=layers, num_nextn_predict_layers=1))


def open_mtp(folder):
    """Main model and MtpModel, read from disk by transformers, and their twins in float64."""
    main = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **EAGER)
    mtp = open_mtp_model(main)
    main64 = wide(main)
    weights = {name: tensor.double() for name, tensor in mtp.state_dict().items()}
    with float64():
        mtp64 = MtpModel(main64, 1).eval()
        mtp64.load_state_dict(weights)
        mtp64.tie_with_main_model(main64)
    assert mtp64.config._experts_implementation == 'eager' and mtp64.config._attn_implementation == 'eager'
    return main.eval(), mtp.eval(), main64, mtp64


def mtp_names(layers, named):
    """MtpModel's names to the disk's."""
    out = {}
    for name, tensor in named.items():
        name = name.replace('layers.0.mtp_block.', 'layers.0.').replace('layers.0.post_norm', 'layers.0.shared_head.norm')
        out[name.replace('layers.0.', f'model.layers.{layers}.')] = tensor
    return on_disk(out)


def deepseek_v3_mtp():
    config = v3(num_hidden_layers=2, n_routed_experts=8, topk_group=2, num_experts_per_tok=2)
    ids, labels = tokens(config.vocab_size, 2, 15, seed=11)
    lengths = [7, 9]
    packed_ids, packed_labels = tokens(config.vocab_size, 1, sum(lengths), seed=12)
    folder = HERE / 'deepseek_v3_mtp'
    for seed in range(1, 200):
        save_mtp_directory(folder, config, seed)
        main32, mtp32, main, mtp = open_mtp(folder)
        routing = Routing(main)
        of_mtp = Routing(mtp)
        with float64():
            results = mtp_results(main, mtp, ids, labels)
            packed = mtp_packed(main, mtp, lengths, packed_ids, packed_labels)
        plain = mtp_results(main32, mtp32, ids, labels)
        noise = max(
            relative(plain[name], value)
            for name, value in results.items()
            if value.is_floating_point() and value.norm() > 0
        )
        if min(routing.margin, of_mtp.margin) >= MARGIN and noise <= NOISE:
            break
    else:
        raise SystemExit('deepseek_v3_mtp: no seed is clear enough')
    stored = load_file(folder / 'model.safetensors')
    copies = {f'model.layers.2.{name}.weight' for name in ('embed_tokens', 'shared_head.head')}
    expected = {name for name in stored if not name.endswith('e_score_correction_bias')} - copies
    got = {name.removeprefix('joint.grad.') for name in results if name.startswith('joint.grad.')}
    assert expected == got, expected ^ got
    save_golden(folder / 'golden.safetensors', results)
    save_golden(folder / 'packed.safetensors', packed)
    report('deepseek_v3_mtp', f'seed {seed}; loss {results["loss"]:.6f}, mtp {results["mtp.loss"]:.6f}; worst fp32 noise {noise:.1e}; {routing}; {of_mtp}')


def mtp_results(main, mtp, ids, labels):
    layers = main.config.num_hidden_layers
    out = main(ids, labels=labels)
    before, after = hidden_states(main, ids)
    head = main.lm_head
    targets = labels[:, 2:]
    valid = (targets != -100).sum()
    results = {'input_ids': ids, 'labels': labels, 'logits': out.logits, 'loss': out.loss, 'hidden': after}
    for name, hidden in (('mtp_prenorm', before), ('mtp', after)):
        logits = head(mtp_hidden(mtp, hidden, ids))
        loss = cross_entropy_sum(logits[:, :-1], targets) / valid
        results |= {f'{name}.logits': logits, f'{name}.loss': loss}
    joint = out.loss + MTP_LAMBDA * results['mtp.loss']
    joint.backward()
    own = {n: p.grad for n, p in mtp.named_parameters() if n.startswith('layers.')}
    results |= {'joint.loss': joint}
    results |= {f'joint.grad.{name}': grad for name, grad in {**gradients_of(main), **mtp_names(layers, own)}.items()}
    return results


def mtp_packed(main, mtp, lengths, ids, labels):
    """Documents run apart, laid out as one row. Rows of mtp.logits that no document owns are zero."""
    mtp_logits = torch.zeros(1, ids.shape[1], main.config.vocab_size)
    logits, start, loss, valid = [], 0, 0, 0
    labels = labels.clone()
    for length in lengths:
        part = ids[:, start : start + length]
        labels[:, start] = -100
        _, after = hidden_states(main, part)
        logits.append(main.lm_head(after))
        of_part = main.lm_head(mtp_hidden(mtp, after, part))
        mtp_logits[:, start : start + length - 1] = of_part.detach()
        targets = labels[:, start + 2 : start + length]
        loss = loss + cross_entropy_sum(of_part[:, :-1], targets)
        valid = valid + (targets != -100).sum()
        start += length
    return {
        'input_ids': ids,
        'labels': labels,
        'document_ids': torch.cat([torch.full((1, n), d) for d, n in enumerate(lengths)], 1),
        'position_ids': torch.cat([torch.arange(n)[None] for n in lengths], 1),
        'logits': torch.cat(logits, 1),
        'mtp.logits': mtp_logits,
        'mtp.loss': loss / valid,
        'mtp.targets': valid,
    }


def fp8_blocks():
    """A weight of fp8 blocks of 128 x 128, ragged at both ends, and every fp8 code."""
    generator = torch.Generator().manual_seed(8)
    weight = torch.randn(200, 300, generator=generator) * torch.rand(200, 1, generator=generator)
    scales = torch.empty(2, 3)
    spread = torch.empty_like(weight)
    for i in range(2):
        for j in range(3):
            block = (slice(128 * i, 128 * (i + 1)), slice(128 * j, 128 * (j + 1)))
            scales[i, j] = weight[block].abs().max() / 448
            spread[block] = scales[i, j]
    codes = (weight / spread).to(torch.float8_e4m3fn)
    every = torch.arange(256, dtype=torch.uint8).reshape(16, 16).view(torch.float8_e4m3fn)
    folder = HERE / 'fp8_blocks'
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    tensors = {
        'proj.weight': codes,
        'proj.weight_scale_inv': scales,
        'codes.weight': every,
        'codes.weight_scale_inv': torch.ones(1, 1),
    }
    save_file(tensors, str(folder / 'model.safetensors'))
    save_golden(folder / 'golden.safetensors', {'proj.weight': codes.float() * spread, 'codes.weight': every.float()})
    report('fp8_blocks', f'relative error of the quantisation {relative(codes.float() * spread, weight.double()):.1e}')


CASES = [
    deepseek_v3,
    deepseek_v3_no_q_lora,
    deepseek_v3_half_rope,
    deepseek_v3_yarn,
    deepseek_v3_mtp,
    deepseek_v2,
    deepseek_v2_group,
    gpt2,
    llama,
    llama_llama3_rope,
    llama_biases,
    qwen2,
    qwen2_yarn,
    mistral,
    packed_documents,
    fp8_blocks,
]

if __name__ == '__main__':
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    wanted = sys.argv[1:] or [case.__name__ for case in CASES]
    print(f'torch {torch.__version__}, transformers {transformers.__version__}')
    for case in CASES:
        if case.__name__ in wanted:
            case()
