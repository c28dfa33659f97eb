import { addRmsNorm, rmsNorm } from '../../src/ops/rms-norm.js';
import type { OpCase } from '../support/op-case.js';

type Options = { scale?: number; fp32Weight?: boolean } & Partial<OpCase>;

const eps = 1e-6;

function normalise(x: Float64Array, weight: Float64Array, r: (x: number) => number): Float64Array {
  const D = weight.length;
  const y = new Float64Array(x.length);
  for (let row = 0; row < x.length / D; row++) {
    const values = x.subarray(row * D, (row + 1) * D);
    const squares = values.reduce((total, v) => r(total + r(v * v)), 0);
    const rstd = r(1 / r(Math.sqrt(r(r(squares / D) + eps))));
    values.forEach((v, i) => {
      y[row * D + i] = r(r(v * rstd) * weight[i]!);
    });
  }
  return y;
}

function rmsNormCase(R: number, D: number, { scale = 1, fp32Weight = false, ...rest }: Options = {}): OpCase {
  return {
    name: `R${R} D${D} scale ${scale}${fp32Weight ? ' fp32 weight' : ''}`,
    inputs: {
      x: { shape: [R, D], values: (rng) => scale * rng.normal() },
      weight: { shape: [D], dtype: fp32Weight ? 'fp32' : 'float', values: (rng) => 1 + 0.3 * rng.normal() },
    },
    build: ({ x, weight }) => rmsNorm(x!, weight!, eps),
    reference: ({ x, weight }, r) => [normalise(x!, weight!, r)],
    ...rest,
  };
}

function addRmsNormCase(R: number, D: number, { fp32Weight = false, ...rest }: Options = {}): OpCase {
  const weighted = rmsNormCase(R, D, { fp32Weight });
  return {
    name: `residual ${weighted.name}`,
    inputs: { ...weighted.inputs, residual: { shape: [R, D] } },
    build({ x, residual, weight }) {
      const [y, , sum] = addRmsNorm(x!, residual!, weight!, eps);
      return [y, sum];
    },
    reference({ x, residual, weight }, r) {
      const sum = x!.map((v, i) => r(v + residual![i]!));
      return [normalise(sum, weight!, r), sum];
    },
    ...rest,
  };
}

export const cases: OpCase[] = [
  rmsNormCase(5, 7),
  rmsNormCase(3, 16),
  rmsNormCase(2, 133),
  rmsNormCase(4, 1, { differentiable: ['weight'] }), // dx is what cancellation leaves of zero
  rmsNormCase(0, 8),
  rmsNormCase(19, 24), // more than one share of the rows
  rmsNormCase(2, 1028), // longer than a warp takes
  rmsNormCase(1, 16_396, { dtypes: ['fp32'] }), // more columns than shared memory has room for
  rmsNormCase(4, 9, { fp32Weight: true }),
  rmsNormCase(3, 20, { scale: 1e-3 }), // where eps counts
  rmsNormCase(3, 20, { scale: 400 }), // whose squares fp16 cannot hold
  addRmsNormCase(5, 7),
  addRmsNormCase(3, 64),
  addRmsNormCase(2, 133, { fp32Weight: true }),
  addRmsNormCase(0, 8),
  addRmsNormCase(2, 1032),
  rmsNormCase(2048, 1024, { bench: true }),
];
