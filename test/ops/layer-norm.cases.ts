import { addLayerNorm, layerNorm } from '../../src/ops/layer-norm.js';
import type { OpCase } from '../support/op-case.js';

type Options = { scale?: number; offset?: number; fp32Weight?: boolean } & Partial<OpCase>;

const eps = 1e-5;

function normalise(x: Float64Array, weight: Float64Array, bias: Float64Array, r: (x: number) => number): Float64Array {
  const D = weight.length;
  const y = new Float64Array(x.length);
  for (let row = 0; row < x.length / D; row++) {
    const values = x.subarray(row * D, (row + 1) * D);
    const mean = r(values.reduce((total, v) => r(total + v), 0) / D);
    const centred = values.map((v) => r(v - mean));
    const variance = r(centred.reduce((total, v) => r(total + r(v * v)), 0) / D);
    const rstd = r(1 / r(Math.sqrt(r(variance + eps))));
    centred.forEach((v, i) => {
      y[row * D + i] = r(r(r(v * rstd) * weight[i]!) + bias[i]!);
    });
  }
  return y;
}

function layerNormCase(R: number, D: number, given: Options = {}): OpCase {
  const { scale = 1, offset = 0, fp32Weight = false, ...rest } = given;
  const dtype = fp32Weight ? 'fp32' : 'float';
  return {
    name: `R${R} D${D} scale ${scale} offset ${offset}${fp32Weight ? ' fp32 weight' : ''}`,
    inputs: {
      x: { shape: [R, D], values: (rng) => scale * rng.normal() + offset },
      weight: { shape: [D], dtype, values: (rng) => 1 + 0.3 * rng.normal() },
      bias: { shape: [D], dtype },
    },
    build: ({ x, weight, bias }) => layerNorm(x!, weight!, bias!, eps),
    reference: ({ x, weight, bias }, r) => [normalise(x!, weight!, bias!, r)],
    ...rest,
  };
}

function addLayerNormCase(R: number, D: number, { fp32Weight = false, ...rest }: Options = {}): OpCase {
  const weighted = layerNormCase(R, D, { fp32Weight });
  return {
    name: `residual ${weighted.name}`,
    inputs: { ...weighted.inputs, residual: { shape: [R, D] } },
    build({ x, residual, weight, bias }) {
      const [y, , , sum] = addLayerNorm(x!, residual!, weight!, bias!, eps);
      return [y, sum];
    },
    reference({ x, residual, weight, bias }, r) {
      const sum = x!.map((v, i) => r(v + residual![i]!));
      return [normalise(sum, weight!, bias!, r), sum];
    },
    ...rest,
  };
}

export const cases: OpCase[] = [
  layerNormCase(5, 7),
  layerNormCase(3, 16),
  layerNormCase(2, 133),
  layerNormCase(0, 8),
  layerNormCase(19, 24), // more than one share of the rows
  layerNormCase(2, 1028), // longer than a warp takes
  layerNormCase(19, 1016), // warps' rows, of which eight sums at a time are most of 64 KB
  layerNormCase(1, 8200, { dtypes: ['fp32'] }), // more columns than shared memory has room for
  layerNormCase(4, 9, { fp32Weight: true }),
  layerNormCase(3, 20, { scale: 1e-2 }), // where eps counts
  layerNormCase(3, 21, { offset: 4 }), // E[x²] − E[x]² would cancel
  addLayerNormCase(5, 7),
  addLayerNormCase(3, 64),
  addLayerNormCase(2, 133, { fp32Weight: true }),
  addLayerNormCase(0, 8),
  addLayerNormCase(2, 1032),
  layerNormCase(2048, 1024, { bench: true }),
];
