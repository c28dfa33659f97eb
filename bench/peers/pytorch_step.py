"""PyTorch's side of `hadal bench step`: the same model, batch and optimizer, in PyTorch and transformers.

    python bench/peers/pytorch_step.py --config bench/peers/deepseek-14m.json --batch 8 --seq 256 --threads 2

Needs torch 2.13 and transformers >= 5.18. Every step takes new tokens (of --tokens, else random), then forward, backward,
clipping to norm 1 and fused AdamW (beta 0.9 0.95, decay 0.1 on matrices). step_ms is the median without the warm-up steps. bf16 is autocast over
fp32 weights. The defaults are what is fastest on CPU: `padded_sdpa` pads v to q's head size, since PyTorch's fused CPU
attention takes equal sizes only (with `sdpa` latent attention falls back to the T x T matrix); grouped products for experts.
"""

import argparse
import json
import resource
import statistics
import time

import numpy
import torch
import transformers
from torch.nn import functional as F


def padded_sdpa(module, query, key, value, attention_mask, scaling=None, **_kwargs):
    """Causal attention over whole rows (no padding in this bench) by PyTorch's fused CPU kernel."""
    size = value.shape[-1]
    padded = F.pad(value, (0, query.shape[-1] - size))
    out = F.scaled_dot_product_attention(query, key, padded, is_causal=True, scale=scaling)
    return out[..., :size].transpose(1, 2).contiguous(), None


transformers.AttentionInterface.register('padded_sdpa', padded_sdpa)
transformers.AttentionMaskInterface.register('padded_sdpa', transformers.masking_utils.sdpa_mask)

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument('--config', help="a Hugging Face config.json (deepseek_v2, deepseek_v3, gpt2); weights are random")
parser.add_argument('--model', help='a Hugging Face directory to start from, in place of --config')
parser.add_argument('--tokens', help='token ids to train on, little-endian int32, row after row')
parser.add_argument('--batch', type=int, default=8)
parser.add_argument('--seq', type=int, default=256)
parser.add_argument('--dtype', choices=['fp32', 'bf16'], default='fp32')
parser.add_argument('--threads', type=int, default=2)
parser.add_argument('--steps', type=int, default=10)
parser.add_argument('--warmup', type=int, default=2, help='first steps that are not timed')
parser.add_argument('--attention', choices=['padded_sdpa', 'sdpa', 'eager'], default='padded_sdpa')
parser.add_argument('--experts', choices=['grouped_mm', 'eager'], default='grouped_mm')
parser.add_argument('--compile', action='store_true', help='torch.compile the model (needs a C++ compiler)')
args = parser.parse_args()

torch.set_num_threads(args.threads)
torch.manual_seed(0)
transformers.logging.set_verbosity_error()
if args.model:
    config = transformers.AutoConfig.from_pretrained(args.model)
else:
    with open(args.config) as file:
        config = transformers.AutoConfig.for_model(**json.load(file))
choices = {'attn_implementation': args.attention}
if 'deepseek' in config.model_type:
    choices['experts_implementation'] = args.experts
if args.model:
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, **choices).train()
else:
    model = transformers.AutoModelForCausalLM.from_config(config, **choices).train()
matrices = [p for p in model.parameters() if p.dim() > 1]
others = [p for p in model.parameters() if p.dim() <= 1]
optimizer = torch.optim.AdamW(
    [{'params': matrices, 'weight_decay': 0.1}, {'params': others, 'weight_decay': 0.0}],
    lr=3e-4,
    betas=(0.9, 0.95),
    fused=True,
)
forward = torch.compile(model) if args.compile else model

count = args.warmup + args.steps
if args.tokens:
    numbers = numpy.fromfile(args.tokens, dtype='<i4', count=count * args.batch * args.seq)
    batches = torch.from_numpy(numbers.astype('int64')).view(count, args.batch, args.seq)
else:
    batches = torch.randint(0, config.vocab_size, (count, args.batch, args.seq))

losses, times = [], []
for tokens in batches:
    start = time.perf_counter()
    with torch.autocast('cpu', torch.bfloat16, enabled=args.dtype == 'bf16'):
        loss = forward(tokens, labels=tokens, use_cache=False).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    losses.append(loss.item())
    times.append(time.perf_counter() - start)

step = statistics.median(times[args.warmup :])
print(
    json.dumps(
        {
            'tokens_per_s': round(args.batch * args.seq / step, 1),
            'step_ms': round(1000 * step, 2),
            'peak_rss_mb': round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
            'loss_first': losses[0],
            'loss_last': losses[-1],
            'params': sum(p.numel() for p in model.parameters()),
        }
    )
)
