"""Makes truncated-svd-goldens.json: singular values by numpy, in float64, of matrices that the test makes in the same way.

python test/session/truncated-svd-goldens.py
"""

import json
from pathlib import Path

import numpy as np


def uniform(count: int, seed: int) -> np.ndarray:
    """A linear congruential generator that JavaScript's numbers hold exactly; from -0.5 up to 0.5."""
    values = np.empty(count)
    for i in range(count):
        seed = (seed * 48271) % 2147483647
        values[i] = seed / 2147483647 - 0.5
    return values


def matrices() -> dict[str, np.ndarray]:
    i, j = np.arange(50)[:, None], np.arange(50)[None, :]
    low = uniform(40 * 5, 3).reshape(40, 5) @ uniform(5 * 33, 4).reshape(5, 33)
    return {
        'flat': uniform(60 * 44, 1).reshape(60, 44),
        'wide': uniform(30 * 80, 2).reshape(30, 80),
        'decaying': 1 / (i + j + 1),
        'of rank 5': low,
    }


goldens = {
    name: np.linalg.svd(matrix.astype(np.float32).astype(np.float64), compute_uv=False).tolist()
    for name, matrix in matrices().items()
}
(Path(__file__).parent / 'truncated-svd-goldens.json').write_text(json.dumps(goldens) + '\n')
