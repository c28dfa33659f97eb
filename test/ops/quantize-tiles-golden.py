"""PyTorch's float8_e4m3fn on tiles, for quantize-tiles.test.ts and fp8.test.ts. Run: python test/ops/quantize-tiles-golden.py
(PyTorch 2.13)."""
import json
from pathlib import Path

import torch

torch.manual_seed(20241227)


def quantize(x, tile, power_of_two):
    """s · E4M3(x / s), tile by tile; x fp32 [R, N]."""
    y = torch.empty_like(x)
    height, width = tile
    for top in range(0, x.shape[0], height):
        for left in range(0, x.shape[1], width):
            part = x[top : top + height, left : left + width]
            scale = (part.abs().amax() / 448).clamp(min=2**-126)
            if power_of_two:
                scale = torch.exp2(torch.ceil(torch.log2(scale)))
            codes = (part / scale).clamp(-448, 448).to(torch.float8_e4m3fn)
            y[top : top + height, left : left + width] = codes.float() * scale
    return y


def linear(x, w, dy, power_of_two):
    """y = x · wᵀ and its gradients as DeepSeek-V3 computes them in fp8 (arXiv:2412.19437, §3.3.2 and §3.5.2)."""
    quantized = lambda t, tile: quantize(t, tile, power_of_two).double()
    qx, qw = quantized(x, (1, 128)), quantized(w, (128, 128))
    retiled = quantized(qx.float(), (128, 1))
    return {"y": qx @ qw.T, "dx": quantized(dy, (1, 128)) @ qw, "dw": quantized(dy, (128, 1)).T @ retiled}


# Every number between two codes that could be rounded wrongly: the codes, the middles and their neighbours.
codes = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
middles = (codes[1:] + codes[:-1]) / 2
inf = torch.tensor(float("inf"))
probes = torch.cat([codes, middles, torch.nextafter(middles, inf), torch.nextafter(middles, -inf)])
probes = torch.cat([probes, -probes])

# Numbers as 1/64ths, so that the file is short and they are exact in bf16.
whole = lambda *shape: torch.randint(-255, 256, shape)
x, w, dy = whole(132, 137), whole(130, 137), whole(132, 130)
wide = torch.where(torch.rand(x.shape) < 0.5, x, x // 64)
golden = {"probes": probes.tolist(), "rounded": probes.to(torch.float8_e4m3fn).float().tolist()}
golden |= {"x": wide.tolist(), "w": w.tolist(), "dy": dy.tolist()}
for name, power_of_two in {"float": False, "power-of-two": True}.items():
    results = linear(wide.float() / 64, w.float() / 64, dy.float() / 64, power_of_two)
    # Every 37th number of each.
    golden[name] = {key: value.flatten()[::37].tolist() for key, value in results.items()}
Path(__file__).with_name("quantize-tiles-golden.json").write_text(json.dumps(golden, separators=(",", ":")) + "\n")
