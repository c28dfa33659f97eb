"""Goldens of gradient compression with error feedback, by PyTorch: python test/optim/compression-golden.py

Two ranks, several updates, as PyTorch's hooks have it (means over the ranks, here times their number): top-k by torch.topk, PowerSGD by
torch.linalg.qr, whatever the native kernels do. Gradients are the same formula as in compression.test.ts.
"""

import json
import os

import numpy
import torch

RANKS, UPDATES, DENSITY, RANK = 2, 5, 0.05, 3
SHAPES = {'first': [40, 64], 'experts': [3, 24, 32], 'wide': [16, 200]}


def hashed(numbers):
    """MurmurHash3's finalizer, in [-1, 1)."""
    h = numbers.astype(numpy.uint32)
    h = h ^ (h >> 16)
    h = h * numpy.uint32(0x85EBCA6B)
    h = h ^ (h >> 13)
    h = h * numpy.uint32(0xC2B2AE35)
    h = h ^ (h >> 16)
    return h.astype(numpy.int32) / 2147483648.0


def gradient(shape, rank, update, tensor):
    """Like gradients, few numbers are large, and updates have a part in common."""
    count = int(numpy.prod(shape))
    at = numpy.arange(count, dtype=numpy.uint32)
    own = hashed(at + numpy.uint32(100000 * (1 + rank + RANKS * (update + 10 * tensor))))
    common = hashed(at + numpy.uint32(50000000 + 100000 * tensor))
    return torch.tensor(own**5 + 0.2 * common**3, dtype=torch.float32).view(shape)


def random_q(count, columns, rank):
    row, column = numpy.meshgrid(numpy.arange(columns), numpy.arange(rank), indexing='ij')
    h = row.astype(numpy.uint32) * numpy.uint32(0x9E3779B1) + column.astype(numpy.uint32) * numpy.uint32(0x85EBCA77)
    return torch.tensor(hashed(h + numpy.uint32(1))).expand(count, columns, rank).clone()


def topk(grads, state):
    kept = max(1, int(grads[0].numel() * DENSITY))
    total = torch.zeros_like(grads[0]).flatten()
    for rank, grad in enumerate(grads):
        x = (grad + state.setdefault(rank, torch.zeros_like(grad))).flatten()
        places = torch.topk(x.abs(), kept).indices
        sent = torch.zeros_like(x)
        sent[places] = x[places].bfloat16().float()
        state[rank] = (x - sent).view_as(grad)
        total += sent
    return total.view_as(grads[0])


def powersgd(grads, state):
    shape = grads[0].shape
    matrices = [(g + state.setdefault(r, torch.zeros_like(g))).double().view(-1, *shape[-2:]) for r, g in enumerate(grads)]
    q = state.get('q')
    if q is None:
        q = random_q(matrices[0].shape[0], shape[-1], RANK)
    p = torch.linalg.qr(sum(m @ q for m in matrices) / RANKS).Q
    q = sum(m.transpose(1, 2) @ p for m in matrices) / RANKS
    mean = p @ q.transpose(1, 2)
    state['q'] = q
    for rank, m in enumerate(matrices):
        state[rank] = (m - mean).view(shape).float()
    return (mean * RANKS).view(shape).float()


goldens = {}
with numpy.errstate(over='ignore'):
    for name, compress in {'topk': topk, 'powersgd': powersgd}.items():
        goldens[name] = {}
        for tensor, (key, shape) in enumerate(SHAPES.items()):
            state, rows = {}, []
            for update in range(UPDATES):
                total = compress([gradient(shape, rank, update, tensor) for rank in range(RANKS)], state)
                residual = state[RANKS - 1]
                # Every 29th number, and the norm of all.
                rows.append(
                    {
                        'sum': [float('%.7g' % x) for x in total.flatten()[::29].tolist()],
                        'sumNorm': total.double().norm().item(),
                        'residual': [float('%.7g' % x) for x in residual.flatten()[::29].tolist()],
                        'residualNorm': residual.double().norm().item(),
                    }
                )
            goldens[name][key] = rows

path = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'compression-golden.json')
with open(path, 'w') as file:
    json.dump(goldens, file, separators=(',', ':'))
    file.write('\n')
