// RMSNorm. Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4: y = x · rstd · weight, rstd = 1/√(mean(x²) + eps).
// With a residual, x is a sum that the same pass over memory computes.
// R rows (all dims but the last), D features.
import type { Value } from '../graph/graph.js';
import type { TypeSpec } from '../graph/op.js';
import { defineOp, expectDType, expectShape } from './define-op.js';
import { add, cast, multiply, rsqrt, square, subtract } from './elementwise.js';
import { mean, sum } from './reduce.js';
import { reshape } from './shape.js';

type RmsNormAttrs = { eps: number };

const dims = (x: Value) => {
  const dim = x.shape.at(-1) as number;
  return { rows: x.size / dim, dim };
};

function inferNorm(op: string, x: Value, weight: Value): TypeSpec[] {
  expectDType(op, 'x', x, 'float');
  expectDType(op, 'weight', weight, 'float');
  expectShape(op, 'weight', weight, [x.shape.at(-1) ?? null]);
  const { shape, dtype } = x;
  return [
    { shape, dtype },
    { shape: shape.slice(0, -1), dtype: 'fp32' },
  ];
}

const rmsNormOp = defineOp<RmsNormAttrs, [x: Value, weight: Value], [y: Value, rstd: Value]>({
  name: 'rms-norm',
  narrow: [0],
  ofSum(a, b, [, weight], { eps }) {
    const [y, rstd, total] = addRmsNorm(a, b, weight, eps);
    return { outputs: [y, rstd], sum: total };
  },
  infer: ([x, weight]) => inferNorm('rms-norm', x, weight),
  vjp: ({ inputs: [x, weight], outputs: [, rstd], gradients: [dy], attrs }) =>
    dy ? rmsNormBackwardOp.apply([dy, x, weight, rstd, null], attrs) : [null, null],
  lower([x, weight], { eps }) {
    const last = x.shape.length - 1;
    const x32 = cast(x, 'fp32');
    const rstd = rsqrt(add(mean(square(x32), [last], true), eps));
    return [cast(multiply(multiply(x32, rstd), weight), x.dtype), reshape(rstd, x.shape.slice(0, -1))];
  },
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

const addRmsNormOp = defineOp<
  RmsNormAttrs,
  [x: Value, residual: Value, weight: Value],
  [y: Value, rstd: Value, sum: Value]
>({
  name: 'add-rms-norm',
  narrow: [0, 1],
  infer([x, residual, weight]) {
    const types = inferNorm('add-rms-norm', x, weight);
    expectDType('add-rms-norm', 'residual', residual, x.dtype);
    expectShape('add-rms-norm', 'residual', residual, x.shape);
    return [...types, { shape: x.shape, dtype: x.dtype }];
  },
  vjpOutputs: [0, 2],
  vjp({ inputs: [, , weight], outputs: [, rstd, total], gradients: [dy, , dsum], attrs }) {
    if (!dy) return [dsum, dsum, null];
    const [dx, dweight] = rmsNormBackwardOp.apply([dy, total, weight, rstd, dsum], attrs);
    return [dx, dx, dweight];
  },
  lower([x, residual, weight], attrs) {
    const total = add(x, residual);
    return [...rmsNormOp.apply([total, weight], attrs), total];
  },
  restore: {
    output: 2,
    inputs: [2],
    apply: (total, [, , weight], attrs) => [...rmsNormOp.apply([total, weight], attrs), total],
  },
  cost: ([x, residual, weight], [y, , total]) => ({
    flops: 5 * x.size,
    bytesRead: x.bytes + residual.bytes + weight.bytes,
    bytesWritten: y.bytes + total.bytes,
  }),
  kernel: ([x, residual, weight], outputs, { eps }) => ({
    kernel: 'add-rms-norm',
    params: { ...dims(x), eps, dtype: x.dtype, weightDtype: weight.dtype },
    buffers: [x, residual, weight, ...outputs],
  }),
  inPlace: [
    [0, 0],
    [0, 1],
    [2, 0],
    [2, 1],
  ],
});

const rmsNormBackwardOp = defineOp<
  RmsNormAttrs,
  [dy: Value, x: Value, weight: Value, rstd: Value, dsum: Value | null],
  [dx: Value, dweight: Value]
>({
  name: 'rms-norm-backward',
  infer: ([, x, weight]) => [
    { shape: x.shape, dtype: x.dtype },
    { shape: weight.shape, dtype: weight.dtype },
  ],
  // rstd is recomputed from x so that the lowered form depends on x through every path.
  lower([dy, x, weight, , dsum], { eps }) {
    const last = x.shape.length - 1;
    const g = cast(dy, 'fp32');
    const x32 = cast(x, 'fp32');
    const rstd = rsqrt(add(mean(square(x32), [last], true), eps));
    const xhat = multiply(x32, rstd);
    const weighted = multiply(g, weight);
    const own = multiply(rstd, subtract(weighted, multiply(xhat, mean(multiply(weighted, xhat), [last], true))));
    const dx = dsum ? add(own, dsum) : own;
    const rows = Array.from({ length: last }, (_, i) => i);
    return [cast(dx, x.dtype), cast(sum(multiply(g, xhat), rows), weight.dtype)];
  },
  cost: ([dy, x, , , dsum]) => ({
    flops: 9 * x.size,
    bytesRead: x.bytes + dy.bytes + (dsum?.bytes ?? 0),
    bytesWritten: x.bytes,
  }),
  kernel: ([dy, x, weight, rstd, dsum], outputs, { eps }) => ({
    kernel: 'rms-norm-backward',
    params: { ...dims(x), eps, dtype: x.dtype, weightDtype: weight.dtype },
    buffers: [dy, x, weight, rstd, dsum, ...outputs],
  }),
  inPlace: [
    [0, 0],
    [0, 1],
    [0, 4],
  ],
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

/**
 * A residual connection and the normalisation after it, in one pass: y = rmsNorm(sum), sum = x + residual.
 *
 * @param x - [..., D], float
 * @param residual - as x
 * @param weight - [D], float
 * @param eps - added to the mean of squares
 * @returns y [..., D] and sum [..., D], dtype of x; rstd [...], fp32
 * @throws HadalError HADAL_ERR_SHAPE, HADAL_ERR_DTYPE
 */
export function addRmsNorm(x: Value, residual: Value, weight: Value, eps: number): [y: Value, rstd: Value, sum: Value] {
  return addRmsNormOp.apply([x, residual, weight], { eps });
}
