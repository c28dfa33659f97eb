"""Makes convert-goldens.json (PyTorch's conversions, as bits) and from-python.safetensors.

python test/formats/make-goldens.py
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

here = Path(__file__).parent
torch.manual_seed(1)

random_bits = torch.randint(-(2**31), 2**31, (300,), dtype=torch.int64).to(torch.int32).view(torch.float32)
random_bits = random_bits[~random_bits.isnan()]  # which NaN comes out is nobody's contract
near = torch.randn(300) * torch.logspace(-9, 5, 300)
e = torch.tensor([0.0, -0.0, 1.0, 1.00390625, 1.01171875, 65504.0, 65519.9, 65520.0, 65536.0, 6e-8, 2.98e-8, 2.9802322e-8, 2.9802325e-8])
f = torch.tensor([448.0, 464.0, 464.1, 479.9, 480.0, 0.001953125, 0.0009765625, 0.00097656256, 0.0029296875, float('inf'), -float('inf')])
x = torch.cat([random_bits, near, e, f, -f])

goldens = {
    'fp32': x.view(torch.int32).tolist(),
    'BF16': x.to(torch.bfloat16).view(torch.int16).tolist(),
    'F16': x.to(torch.float16).view(torch.int16).tolist(),
    'F8_E4M3': x.to(torch.float8_e4m3fn).view(torch.int8).tolist(),
    'F8_E4M3 values': [None if v != v else v for v in torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().tolist()],
}
(here / 'convert-goldens.json').write_text(json.dumps(goldens) + '\n')

save_file(
    {
        'a.weight': torch.arange(6, dtype=torch.float32).reshape(2, 3),
        'b': torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        'c': torch.tensor([0.5], dtype=torch.float16),
        'ids': torch.tensor([[1], [-1]], dtype=torch.int64),
        'none': torch.zeros(0, 3),
        'odd': torch.tensor([1, 2, 3], dtype=torch.uint8),
        'scalar': torch.tensor(3.0, dtype=torch.float64),
        'fp8': torch.tensor([448.0, -0.5]).to(torch.float8_e4m3fn),
    },
    here / 'from-python.safetensors',
    metadata={'format': 'pt'},
)
