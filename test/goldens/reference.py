"""transformers' own models in float64, with random weights: what make_goldens.py computes with."""

from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.modeling_layers import MtpModel

EAGER = dict(attn_implementation='eager', experts_implementation='eager')  # grouped_mm refuses odd sizes


# float64 all the way down


class Float64(TorchFunctionMode):
    """transformers casts to fp32 inside norms, softmax, rotary and router; here those casts mean float64."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        def widen(value):
            return torch.float64 if value is torch.float32 else value

        func = torch.Tensor.double if func is torch.Tensor.float else func
        return func(*map(widen, args), **{key: widen(value) for key, value in (kwargs or {}).items()})


class NoFloat32(TorchDispatchMode):
    """Proves that no fp32 value was made on the way."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, (tuple, list)) else [out]:
            assert not (isinstance(value, torch.Tensor) and value.dtype == torch.float32), f'{func} made fp32'
        return out


@contextmanager
def float64():
    torch.set_default_dtype(torch.float64)
    try:
        with Float64(), NoFloat32():
            yield
    finally:
        torch.set_default_dtype(torch.float32)


def wide(model):
    """The same model, parameters and rotary tables in float64."""
    config = model.config.__class__.from_dict(model.config.to_dict())
    config._attn_implementation = 'eager'
    config._experts_implementation = 'eager'
    weights = {name: tensor.double() for name, tensor in model.state_dict().items()}
    with float64():
        twin = type(model)(config).eval()
        assert twin.config._experts_implementation == 'eager'
        twin.load_state_dict(weights)
    twin.config.name_or_path = model.config.name_or_path
    return twin


# random weights


def randomise(model, seed):
    """Every parameter random and far from its usual start: norms not one, biases not zero, experts different."""
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor, std, mean=0.0):
        tensor.data.copy_(torch.randn(tensor.shape, generator=generator) * std + mean)

    for name, tensor in list(model.named_parameters()) + list(model.named_buffers()):
        if name.endswith('inv_freq') or name.endswith('attn.bias'):
            continue
        if name.endswith('e_score_correction_bias'):
            # Spread wide enough to change choices; below zero, so that masking with 0 in place of -inf shows.
            tensor.data.copy_(torch.rand(tensor.shape, generator=generator) * 0.6 - 1.7)
        elif name.endswith('mlp.gate.weight'):
            normal(tensor, 0.4)
        elif 'embed_tokens' in name:
            normal(tensor, 0.25 if model.config.tie_word_embeddings else 0.8)  # tied, it makes the logits as well
        elif 'wte' in name or 'wpe' in name:
            normal(tensor, 0.3)
        elif name.endswith('bias'):
            normal(tensor, 0.3)
        elif tensor.dim() == 1:
            normal(tensor, 0.25, 1.0)
        else:
            fan_in = tensor.shape[0] if 'c_attn' in name or 'c_fc' in name or 'c_proj' in name else tensor.shape[-1]
            normal(tensor, 1.1 / fan_in**0.5)


def tokens(vocab, batch, length, seed):
    """input_ids and unshifted labels, some of them -100."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, vocab, (batch, length), generator=generator)
    labels = ids.masked_fill(torch.rand(batch, length, generator=generator) < 0.2, -100)
    return ids, labels


# the routers' margins


class Routing:
    """Watches every router of a float64 model: the smallest margin of its choices, and what each rule changed."""

    def __init__(self, model):
        self.margin = float('inf')
        self.choices = self.changed_by_bias = self.changed_by_groups = self.changed_by_zero_mask = 0
        self.loads = []
        for module in model.modules():
            if type(module).__name__.endswith('TopkRouter'):
                module.register_forward_hook(self.watch)

    def watch(self, gate, _inputs, output):
        logits, _, indices = output
        logits = logits.detach()
        bias = getattr(gate, 'e_score_correction_bias', None)
        scores = logits.softmax(-1) if bias is None else logits.sigmoid()
        choice = scores if bias is None else scores + bias
        grouped = bias is not None or gate.topk_method == 'group_limited_greedy'
        kept = choice
        if grouped:
            blocks = choice.unflatten(-1, (gate.num_group, -1))
            of_groups = blocks.amax(-1) if bias is None else blocks.topk(2, -1)[0].sum(-1)
            ranked = of_groups.sort(-1, descending=True)[0]
            if gate.topk_group < gate.num_group:
                self.note(ranked[:, gate.topk_group - 1] - ranked[:, gate.topk_group])
            mask = torch.zeros_like(of_groups, dtype=torch.bool)
            mask.scatter_(1, of_groups.topk(gate.topk_group, -1)[1], True)
            mask = mask.repeat_interleave(blocks.shape[-1], -1)
            kept = choice.masked_fill(~mask, float('-inf'))
            zeroed = choice.masked_fill(~mask, 0.0)
            self.changed_by_zero_mask += self.differ(zeroed, kept, gate.top_k)
        ranked = kept.sort(-1, descending=True)[0]
        self.note(ranked[:, gate.top_k - 1] - ranked[:, gate.top_k])
        assert torch.equal(kept.topk(gate.top_k, -1)[1].sort(-1)[0], indices.sort(-1)[0])
        self.choices += logits.shape[0]
        self.changed_by_groups += self.differ(choice, kept, gate.top_k)
        if bias is not None:
            self.changed_by_bias += self.differ(scores, choice, gate.top_k)
        self.loads.append(torch.bincount(indices.flatten(), minlength=logits.shape[-1]).tolist())

    def note(self, gaps):
        self.margin = min(self.margin, gaps.min().item())

    @staticmethod
    def differ(a, b, k):
        return (a.topk(k, -1)[1].sort(-1)[0] != b.topk(k, -1)[1].sort(-1)[0]).any(-1).sum().item()

    def __str__(self):
        if not self.choices:
            return 'no routers'
        return (
            f'smallest margin {self.margin:.1e}; of {self.choices} choices {self.changed_by_groups} changed by groups, '
            f'{self.changed_by_bias} by the bias, {self.changed_by_zero_mask} would change with a 0 mask; loads {self.loads}'
        )


# Hugging Face names


def on_disk(named):
    """Splits the stacked experts of memory into the per-expert names of the disk."""
    out = {}
    for name, tensor in named.items():
        if name.endswith('experts.gate_up_proj'):
            base = name.removesuffix('gate_up_proj')
            for e, both in enumerate(tensor):
                gate, up = both.chunk(2, 0)
                out[f'{base}{e}.gate_proj.weight'] = gate
                out[f'{base}{e}.up_proj.weight'] = up
        elif name.endswith('experts.down_proj'):
            base = name.removesuffix('down_proj')
            for e, down in enumerate(tensor):
                out[f'{base}{e}.down_proj.weight'] = down
        else:
            out[name] = tensor
    return {name: tensor.detach().contiguous().clone() for name, tensor in out.items()}


def gradients_of(model):
    """The gradient of every parameter by its name on disk; zero where the loss does not reach."""
    grads = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()}
    return on_disk(grads)


def relative(a, b):
    return ((a.double() - b).norm() / b.norm().clamp_min(1e-300)).item()


# multi-token prediction


def open_mtp_model(main):
    """MtpModel beside a main model opened from the same directory."""
    # transformers 5.23 looks for the module at layer 61 and nowhere else; ours lies after the last layer.
    main._keys_to_ignore_on_load_unexpected = [rf'model\.layers\.{main.config.num_hidden_layers}\..*']
    return MtpModel.from_pretrained(main).eval()


def mtp_hidden(mtp, hidden, ids):
    """MtpModel's own first layer over h_0..h_{T-2} and the embeddings of t_1..t_{T-1}, at positions 1..T-1."""
    positions = torch.arange(1, ids.shape[1])[None]
    return mtp.forward_layer(0, hidden[:, :-1], positions, None, input_ids=ids[:, 1:])
