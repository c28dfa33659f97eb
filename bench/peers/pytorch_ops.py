"""PyTorch's side of single ops: forward and backward of one entry of ops.json, as JSON.

    python bench/peers/pytorch_ops.py --op '{"kind": "rms-norm", "dtype": "bf16", "rows": 65536, "dim": 1024}' --threads 2

Every way that PyTorch has of computing it is timed (`ways`: median milliseconds); `extra_mb` is what the first of them
takes beyond its inputs, at its peak.
"""

import argparse
import json
import resource
import statistics
import time

import torch
from torch.nn import functional as F

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument('--op', required=True, type=json.loads, help='an entry of ops.json')
parser.add_argument('--threads', type=int, default=2)
parser.add_argument('--seconds', type=float, default=1.0, help='what each way is given, beyond three runs')
parser.add_argument('--compile', action='store_true', help='time torch.compile, too (needs a C++ compiler)')
args = parser.parse_args()
op = args.op
dtype = {'fp32': torch.float32, 'bf16': torch.bfloat16}[op['dtype']]
torch.set_num_threads(args.threads)
torch.manual_seed(0)


def resident_bytes():
    with open('/proc/self/statm') as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def given(*shape, std=1.0):
    return (std * torch.randn(shape)).to(dtype).requires_grad_()


def backward(outputs, inputs, seed):
    return torch.autograd.grad(outputs, inputs, seed)


def attention():
    q, k = (given(op['B'], op['H'], op['T'], op['D']) for _ in 'qk')
    v = given(op['B'], op['H'], op['T'], op['E'])
    seed = torch.randn_like(v)

    def plain():
        return backward(F.scaled_dot_product_attention(q, k, v, is_causal=True), (q, k, v), seed)

    def padded():  # the fused kernel takes equal sizes only
        out = F.scaled_dot_product_attention(q, k, F.pad(v, (0, op['D'] - op['E'])), is_causal=True)
        return backward(out[..., : op['E']], (q, k, v), seed)

    return {'sdpa': plain} if op['D'] == op['E'] else {'sdpa': plain, 'sdpa, v padded': padded}


def rms_norm():
    x, weight, seed = given(op['rows'], op['dim']), given(op['dim']), given(op['rows'], op['dim']).detach()
    compute = lambda x, weight: F.rms_norm(x, (op['dim'],), weight, 1e-6)
    return ways(compute, (x, weight), seed)


def swiglu():
    x, seed = given(op['rows'], 2 * op['dim']), given(op['rows'], op['dim']).detach()
    compute = lambda x: F.silu(x[:, : op['dim']]) * x[:, op['dim'] :]
    return ways(compute, (x,), seed)


def linear_cross_entropy():
    hidden, weight = given(op['rows'], op['dim']), given(op['words'], op['dim'], std=0.05)
    labels = torch.arange(op['rows']) * 131 % op['words']
    compute = lambda hidden, weight: F.cross_entropy((hidden @ weight.T).float(), labels)
    return ways(compute, (hidden, weight), None)


def ways(compute, inputs, seed):
    found = {'eager': lambda: backward(compute(*inputs), inputs, seed)}
    if args.compile:
        compiled = torch.compile(compute)
        found['compiled'] = lambda: backward(compiled(*inputs), inputs, seed)
    return found


def adamw():
    parameter = given(op['rows'], op['dim'])
    parameter.grad = torch.randn_like(parameter)
    optimizer = torch.optim.AdamW([parameter], lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    return {'fused': optimizer.step}


kinds = {
    'attention': attention,
    'rms-norm': rms_norm,
    'swiglu': swiglu,
    'linear-cross-entropy': linear_cross_entropy,
    'adamw': adamw,
}
timed = kinds[op['kind']]()
before = resident_bytes()
extra, medians = None, {}
for name, run in timed.items():
    run()  # compiles, and touches its memory
    times = []
    end = time.perf_counter() + args.seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - start))
    medians[name] = statistics.median(times)
    if extra is None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        extra = max(0, peak - before) / 2**20
print(json.dumps({'ways': medians, 'extra_mb': round(extra, 1)}))
