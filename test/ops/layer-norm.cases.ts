import { layerNorm } from '../../src/ops/layer-norm.js';
import type { OpCase } from '../support/op-case.js';

function layerNormCase(
  R: number,
  D: number,
  { scale = 1, offset = 0, fp32Weight = false, bench = false } = {},
): OpCase {
  const dtype = fp32Weight ? 'fp32' : 'float';
  const eps = 1e-5;
  return {
    name: `R${R} D${D} scale ${scale} offset ${offset}${fp32Weight ? ' fp32 weight' : ''}`,
    inputs: {
      x: { shape: [R, D], values: (rng) => scale * rng.normal() + offset },
      weight: { shape: [D], dtype, values: (rng) => 1 + 0.3 * rng.normal() },
      bias: { shape: [D], dtype },
    },
    build: ({ x, weight, bias }) => layerNorm(x!, weight!, bias!, eps),
    reference({ x, weight, bias }, r) {
      const y = new Float64Array(R * D);
      for (let row = 0; row < R; row++) {
        const values = x!.subarray(row * D, (row + 1) * D);
        const mean = r(values.reduce((total, v) => r(total + v), 0) / D);
        const centred = values.map((v) => r(v - mean));
        const variance = r(centred.reduce((total, v) => r(total + r(v * v)), 0) / D);
        const rstd = r(1 / r(Math.sqrt(r(variance + eps))));
        centred.forEach((v, i) => {
          y[row * D + i] = r(r(r(v * rstd) * weight![i]!) + bias![i]!);
        });
      }
      return [y];
    },
    ...(bench && { bench }),
  };
}

export const cases: OpCase[] = [
  layerNormCase(5, 7),
  layerNormCase(3, 16),
  layerNormCase(2, 133),
  layerNormCase(0, 8),
  layerNormCase(4, 9, { fp32Weight: true }),
  layerNormCase(3, 20, { scale: 1e-2 }), // where eps counts
  layerNormCase(3, 21, { offset: 4 }), // E[x²] − E[x]² would cancel
  layerNormCase(2048, 1024, { bench: true }),
];
