"""PyTorch's side of scripts/accept/compression.mjs: the same model, weights, batches, optimizer and compression, in PyTorch and
transformers. Both ranks are simulated in one process: each has the gradient of its rows, and a residual.

    python compression_peer.py task.json
"""

import json
import sys

import numpy
import torch
import transformers

with open(sys.argv[1]) as file:
    task = json.load(file)
with open(task['weights'] + '.json') as file:
    manifest = json.load(file)
torch.set_num_threads(2)
transformers.logging.set_verbosity_error()
config = transformers.AutoConfig.for_model(**task['model'])
model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation='eager', experts_implementation='eager')
model = model.float().train()
own = dict(model.named_parameters())
own.update(dict(model.named_buffers()))

# Each of our parameters is one of theirs, or several of theirs one below the other.
numbers = torch.from_numpy(numpy.fromfile(task['weights'], dtype='<f4').copy())
units, at = [], 0
for entry in manifest:
    size = int(numpy.prod(entry['shape']))
    values = numbers[at : at + size].view(entry['shape'])
    at += size
    names = [entry['name']] if entry['name'] in own else [part['name'] for part in entry['parts']]
    rows = [own[name].shape[0] for name in names]
    with torch.no_grad():
        for name, part in zip(names, values.split(rows), strict=True):
            own[name].copy_(part)
    if entry['trainable']:
        units.append({'names': names, 'rows': rows, 'shape': entry['shape'], 'decay': entry['decay'], 'state': {}})
assert at == numbers.numel()
ours = {name for unit in units for name in unit['names']}
assert ours == {name for name, parameter in model.named_parameters()}, 'a parameter is missing'

parameters = dict(model.named_parameters())
optimizer = torch.optim.AdamW(
    [
        {'params': [parameters[n] for u in units if u['decay'] for n in u['names']], 'weight_decay': 0.1},
        {'params': [parameters[n] for u in units if not u['decay'] for n in u['names']], 'weight_decay': 0.0},
    ],
    lr=task['lr'],
    betas=(0.9, 0.95),
    eps=1e-8,
)


def topk(grads, state):
    kept = max(1, int(grads[0].numel() * task['density']))
    total = torch.zeros_like(grads[0]).flatten()
    for rank, grad in enumerate(grads):
        x = (grad + state.get(rank, 0)).flatten()
        places = torch.topk(x.abs(), kept).indices
        sent = torch.zeros_like(x)
        sent[places] = x[places].bfloat16().float()
        state[rank] = (x - sent).view_as(grad)
        total += sent
    return total.view_as(grads[0])


def first_q(count, columns, rank):
    """The same beginning as ours: MurmurHash3's finalizer of row and column."""
    row, column = numpy.meshgrid(numpy.arange(columns), numpy.arange(rank), indexing='ij')
    with numpy.errstate(over='ignore'):
        h = row.astype(numpy.uint32) * numpy.uint32(0x9E3779B1) + column.astype(numpy.uint32) * numpy.uint32(0x85EBCA77)
        h = h + numpy.uint32(1)
        h = (h ^ (h >> 16)) * numpy.uint32(0x85EBCA6B)
        h = (h ^ (h >> 13)) * numpy.uint32(0xC2B2AE35)
        h = h ^ (h >> 16)
    return torch.from_numpy((h.astype(numpy.int32) / 2147483648.0).astype(numpy.float32)).expand(count, columns, rank)


def powersgd(grads, state):
    """As torch.distributed's powerSGD_hook with warm start and error feedback, times the number of ranks."""
    shape = grads[0].shape
    matrices = [(grad + state.get(rank, 0)).view(-1, *shape[-2:]) for rank, grad in enumerate(grads)]
    if 'q' not in state:
        state['q'] = first_q(matrices[0].shape[0], shape[-1], task['rank'])
    p = torch.linalg.qr(sum(m @ state['q'] for m in matrices) / len(grads)).Q
    state['q'] = sum(m.transpose(1, 2) @ p for m in matrices) / len(grads)
    mean = p @ state['q'].transpose(1, 2)
    for rank, m in enumerate(matrices):
        state[rank] = (m - mean).view(shape)
    return (mean * len(grads)).view(shape)


def suits(shape):
    if len(shape) < 2 or numpy.prod(shape) < 1024:
        return False
    return task['kind'] == 'topk' or 2 * task['rank'] * (shape[-2] + shape[-1]) <= shape[-2] * shape[-1]


compress = {'topk': topk, 'powersgd': powersgd, 'none': lambda grads, state: sum(grads)}[task['kind']]
torch.manual_seed(0)
batch, steps, ranks = task['batch'], task['steps'], task['ranks']
rows = torch.from_numpy(numpy.fromfile(task['tokens'], dtype='<i4').astype('int64')).view(-1, task['seqLen'])


def loss_of(tokens, reduction):
    logits = model(tokens, use_cache=False).logits[:, :-1].float()
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction=reduction)


losses = []
for step in range(steps):
    shares = rows[step * batch : (step + 1) * batch].split(batch // ranks)
    grads, loss = [], 0.0
    for share in shares:
        model.zero_grad(set_to_none=True)
        part = loss_of(share, 'sum') / (batch * (task['seqLen'] - 1))
        part.backward()
        loss += part.item()
        flat = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in parameters.items()}
        grads.append([torch.cat([flat[n] for n in u['names']]) for u in units])
    for i, unit in enumerate(units):
        mine = [g[i] for g in grads]
        total = compress(mine, unit['state']) if suits(unit['shape']) else sum(mine)
        for name, part in zip(unit['names'], total.split(unit['rows']), strict=True):
            parameters[name].grad = part.clone()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for group in optimizer.param_groups:
        group['lr'] = task['lr'] * min(1, (step + 1) / task['warmup'], 1 - 0.9 * step / steps)
    optimizer.step()
    losses.append(loss)

model.eval()
held = rows[steps * batch : steps * batch + task['evalRows']]
with torch.no_grad():
    total = sum(loss_of(part, 'sum').item() for part in held.split(16))
print(json.dumps({'losses': losses, 'sent': 0, 'evalLoss': total / (held.shape[0] * (task['seqLen'] - 1))}))
