// RMSNorm. Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4: y = x · rstd · weight, rstd = 1/√(mean(x²) + eps).
// R rows (all dims but the last), D features.
import type { Value } from '../graph/graph.js';
import { defineOp, expectDType, expectShape } from './define-op.js';
import { add, cast, multiply, rsqrt, square, subtract } from './elementwise.js';
import { mean, sum } from './reduce.js';

type RmsNormAttrs = { eps: number };

const dims = (x: Value) => {
  const dim = x.shape.at(-1) as number;
  return { rows: x.size / dim, dim };
};

const rmsNormOp = defineOp<RmsNormAttrs, [x: Value, weight: Value], [y: Value, rstd: Value]>({
  name: 'rms-norm',
  narrow: [0],
  infer([x, weight]) {
    expectDType('rms-norm', 'x', x, 'float');
    expectDType('rms-norm', 'weight', weight, 'float');
    expectShape('rms-norm', 'weight', weight, [x.shape.at(-1) ?? null]);
    const { shape, dtype } = x;
    return [
      { shape, dtype },
      { shape: shape.slice(0, -1), dtype: 'fp32' },
    ];
  },
  vjp: ({ inputs: [x, weight], outputs: [, rstd], gradients: [dy], attrs }) =>
    dy ? rmsNormBackwardOp.apply([dy, x, weight, rstd], attrs) : [null, null],
  cost: ([x, weight], [y]) => ({
    flops: 4 * x.size,
    bytesRead: x.bytes + weight.bytes,
    bytesWritten: y.bytes,
  }),
  kernel: ([x, weight], outputs, { eps }) => ({
    kernel: 'rms-norm',
    params: { ...dims(x), eps, dtype: x.dtype, weightDtype: weight.dtype },
    buffers: [x, weight, ...outputs],
  }),
});

const rmsNormBackwardOp = defineOp<
  RmsNormAttrs,
  [dy: Value, x: Value, weight: Value, rstd: Value],
  [dx: Value, dweight: Value]
>({
  name: 'rms-norm-backward',
  infer: ([, x, weight]) => [
    { shape: x.shape, dtype: x.dtype },
    { shape: weight.shape, dtype: weight.dtype },
  ],
  // rstd is recomputed from x so that the lowered form depends on x through every path.
  lower([dy, x, weight], { eps }) {
    const last = x.shape.length - 1;
    const g = cast(dy, 'fp32');
    const x32 = cast(x, 'fp32');
    const rstd = rsqrt(add(mean(square(x32), [last], true), eps));
    const xhat = multiply(x32, rstd);
    const weighted = multiply(g, weight);
    const dx = multiply(rstd, subtract(weighted, multiply(xhat, mean(multiply(weighted, xhat), [last], true))));
    const rows = Array.from({ length: last }, (_, i) => i);
    return [cast(dx, x.dtype), cast(sum(multiply(g, xhat), rows), weight.dtype)];
  },
  cost: ([dy, x]) => ({
    flops: 9 * x.size,
    bytesRead: x.bytes + dy.bytes,
    bytesWritten: x.bytes,
  }),
  kernel: ([dy, x, weight, rstd], outputs, { eps }) => ({
    kernel: 'rms-norm-backward',
    params: { ...dims(x), eps, dtype: x.dtype, weightDtype: weight.dtype },
    buffers: [dy, x, weight, rstd, ...outputs],
  }),
});

/**
 * Root-mean-square normalisation over the last dim.
 *
 * @param x - [..., D], float
 * @param weight - [D], float
 * @returns [..., D], dtype of x
 */
export function rmsNorm(x: Value, weight: Value, eps: number): Value {
  return rmsNormOp.apply([x, weight], { eps })[0];
}
