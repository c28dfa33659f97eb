"""Five steps of torch.optim.AdamW in float64, for adamw.test.ts. Run: python test/ops/adamw-golden.py (PyTorch 2.13)."""
import json
from pathlib import Path

import torch

torch.manual_seed(20190101)
size, steps, scale = 7, 5, 0.5
options = {"lr": 0.01, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weightDecay": 0.1}
param = torch.nn.Parameter(torch.randn(size, dtype=torch.float64).float().double())
golden = {"options": options, "gradScale": scale, "param": param.tolist(), "grads": [], "params": [], "m": [], "v": []}
optimizer = torch.optim.AdamW(
    [param],
    lr=options["lr"],
    betas=(options["beta1"], options["beta2"]),
    eps=options["eps"],
    weight_decay=options["weightDecay"],
)
for _ in range(steps):
    grad = torch.randn(size, dtype=torch.float64).float().double()
    param.grad = grad * scale
    optimizer.step()
    state = optimizer.state[param]
    golden["grads"].append(grad.tolist())
    golden["params"].append(param.tolist())
    golden["m"].append(state["exp_avg"].tolist())
    golden["v"].append(state["exp_avg_sq"].tolist())
Path(__file__).with_name("adamw-golden.json").write_text(json.dumps(golden, indent=1) + "\n")
