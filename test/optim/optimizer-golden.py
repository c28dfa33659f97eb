"""Steps of torch.optim's AdamW, SGD and Muon, for optimizer.test.ts. Run: python test/optim/optimizer-golden.py (PyTorch 2.13).

All in float64; Muon's products, which PyTorch rounds to bf16, as PyTorch has them ("muon…bf16") and without that rounding."""
import json
from pathlib import Path

import torch

steps, lr, decay = 4, 0.02, 0.1
shapes = {"wide": (6, 10), "tall": (13, 4), "square": (8, 8)}
plain_bfloat16 = torch.Tensor.bfloat16


def run(make, **options):
    torch.manual_seed(20241208)
    draw = lambda shape: torch.randn(shape, dtype=torch.float64).float().double()
    params = {name: torch.nn.Parameter(draw(shape)) for name, shape in shapes.items()}
    begin = {name: param.flatten().tolist() for name, param in params.items()}
    optimizer = make(params.values(), lr=lr, weight_decay=decay, **options)
    grads = []
    for _ in range(steps):
        for param in params.values():
            param.grad = draw(param.shape)
        grads.append({name: param.grad.flatten().tolist() for name, param in params.items()})
        optimizer.step()
    state = {
        name: {key: value.flatten().tolist() for key, value in optimizer.state[param].items() if value is not None and value.ndim == 2}
        for name, param in params.items()
    }
    end = {name: param.flatten().tolist() for name, param in params.items()}
    return {"begin": begin, "grads": grads, "end": end, "state": state}


golden = {
    "adamw": run(torch.optim.AdamW, betas=(0.9, 0.95), eps=1e-8),
    "sgd": run(torch.optim.SGD),
    "sgd momentum": run(torch.optim.SGD, momentum=0.9),
    "sgd nesterov": run(torch.optim.SGD, momentum=0.9, nesterov=True),
}
for name, options in {
    "muon": {},
    "muon matched": {"adjust_lr_fn": "match_rms_adamw", "ns_steps": 3},
    "muon heavy ball": {"nesterov": False, "momentum": 0.8},
}.items():
    golden[f"{name} bf16"] = run(torch.optim.Muon, **options)
    torch.Tensor.bfloat16 = lambda self: self.clone()
    golden[name] = run(torch.optim.Muon, **options)
    torch.Tensor.bfloat16 = plain_bfloat16
# The beginnings and gradients of all runs are the same.
shared = {key: golden["adamw"][key] for key in ("begin", "grads")}
assert all(run[key] == shared[key] for run in golden.values() for key in shared)
runs = {name: {key: run[key] for key in ("end", "state")} for name, run in golden.items()}
out = {"shapes": shapes, "lr": lr, "weightDecay": decay, **shared, "runs": runs}
rounded = json.loads(json.dumps(out), parse_float=lambda text: float(f"{float(text):.9g}"))
Path(__file__).with_name("optimizer-golden.json").write_text(json.dumps(rounded) + "\n")
