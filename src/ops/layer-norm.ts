// LayerNorm. Ba et al. 2016, arXiv:1607.06450: y = (x − mean) · rstd · weight + bias, rstd = 1/√(variance + eps).
// With a residual, x is a sum that the same pass over memory computes.
// R rows (all dims but the last), D features.
import type { Value } from '../graph/graph.js';
import type { TypeSpec } from '../graph/op.js';
import { defineOp, expectDType, expectShape } from './define-op.js';
import { add, cast, multiply, rsqrt, square, subtract } from './elementwise.js';
import { mean, sum } from './reduce.js';
import { reshape } from './shape.js';

type LayerNormAttrs = { eps: number };

const kernelParams = (x: Value, weight: Value, eps: number) => {
  const dim = x.shape.at(-1) as number;
  return { rows: x.size / dim, dim, eps, dtype: x.dtype, weightDtype: weight.dtype };
};

function inferNorm(op: string, x: Value, weight: Value, bias: Value): TypeSpec[] {
  expectDType(op, 'x', x, 'float');
  expectDType(op, 'weight', weight, 'float');
  expectDType(op, 'bias', bias, weight.dtype);
  expectShape(op, 'weight', weight, [x.shape.at(-1) ?? null]);
  expectShape(op, 'bias', bias, weight.shape);
  const statistic = { shape: x.shape.slice(0, -1), dtype: 'fp32' } as const;
  return [{ shape: x.shape, dtype: x.dtype }, statistic, statistic];
}

const layerNormOp = defineOp<
  LayerNormAttrs,
  [x: Value, weight: Value, bias: Value],
  [y: Value, mean: Value, rstd: Value]
>({
  name: 'layer-norm',
  narrow: [0],
  ofSum(a, b, [, weight, bias], { eps }) {
    const [y, average, rstd, total] = addLayerNorm(a, b, weight, bias, eps);
    return { outputs: [y, average, rstd], sum: total };
  },
  infer: ([x, weight, bias]) => inferNorm('layer-norm', x, weight, bias),
  vjp: ({ inputs: [x, weight], outputs: [, average, rstd], gradients: [dy], attrs }) =>
    dy ? layerNormBackwardOp.apply([dy, x, weight, average, rstd, null], attrs) : [null, null, null],
  lower([x, weight, bias], { eps }) {
    const last = x.shape.length - 1;
    const x32 = cast(x, 'fp32');
    const average = mean(x32, [last], true);
    const centred = subtract(x32, average);
    const rstd = rsqrt(add(mean(square(centred), [last], true), eps));
    const y = cast(add(multiply(multiply(centred, rstd), weight), bias), x.dtype);
    const statistic = (value: Value) => reshape(value, x.shape.slice(0, -1));
    return [y, statistic(average), statistic(rstd)];
  },
  cost: ([x, weight], [y]) => ({
    flops: 8 * x.size,
    bytesRead: x.bytes + 2 * weight.bytes,
    bytesWritten: y.bytes,
  }),
  kernel: ([x, weight, bias], outputs, { eps }) => ({
    kernel: 'layer-norm',
    params: kernelParams(x, weight, eps),
    buffers: [x, weight, bias, ...outputs],
  }),
});

const addLayerNormOp = defineOp<
  LayerNormAttrs,
  [x: Value, residual: Value, weight: Value, bias: Value],
  [y: Value, mean: Value, rstd: Value, sum: Value]
>({
  name: 'add-layer-norm',
  narrow: [0, 1],
  infer([x, residual, weight, bias]) {
    const types = inferNorm('add-layer-norm', x, weight, bias);
    expectDType('add-layer-norm', 'residual', residual, x.dtype);
    expectShape('add-layer-norm', 'residual', residual, x.shape);
    return [...types, { shape: x.shape, dtype: x.dtype }];
  },
  vjpOutputs: [0, 3],
  vjp({ inputs: [, , weight], outputs: [, average, rstd, total], gradients: [dy, , , dsum], attrs }) {
    if (!dy) return [dsum, dsum, null, null];
    const [dx, dweight, dbias] = layerNormBackwardOp.apply([dy, total, weight, average, rstd, dsum], attrs);
    return [dx, dx, dweight, dbias];
  },
  lower([x, residual, weight, bias], attrs) {
    const total = add(x, residual);
    return [...layerNormOp.apply([total, weight, bias], attrs), total];
  },
  restore: {
    output: 3,
    inputs: [2, 3],
    apply: (total, [, , weight, bias], attrs) => [...layerNormOp.apply([total, weight, bias], attrs), total],
  },
  cost: ([x, residual, weight], [y, , , total]) => ({
    flops: 9 * x.size,
    bytesRead: x.bytes + residual.bytes + 2 * weight.bytes,
    bytesWritten: y.bytes + total.bytes,
  }),
  kernel: ([x, residual, weight, bias], outputs, { eps }) => ({
    kernel: 'add-layer-norm',
    params: kernelParams(x, weight, eps),
    buffers: [x, residual, weight, bias, ...outputs],
  }),
  inPlace: [
    [0, 0],
    [0, 1],
    [3, 0],
    [3, 1],
  ],
});

const layerNormBackwardOp = defineOp<
  LayerNormAttrs,
  [dy: Value, x: Value, weight: Value, mean: Value, rstd: Value, dsum: Value | null],
  [dx: Value, dweight: Value, dbias: Value]
>({
  name: 'layer-norm-backward',
  infer: ([, x, weight]) => [
    { shape: x.shape, dtype: x.dtype },
    { shape: weight.shape, dtype: weight.dtype },
    { shape: weight.shape, dtype: weight.dtype },
  ],
  // Mean and rstd are recomputed from x so that the lowered form depends on x through every path.
  lower([dy, x, weight, , , dsum], { eps }) {
    const last = x.shape.length - 1;
    const rows = Array.from({ length: last }, (_, i) => i);
    const meanOf = (value: Value) => mean(value, [last], true);
    const g = cast(dy, 'fp32');
    const x32 = cast(x, 'fp32');
    const centred = subtract(x32, meanOf(x32));
    const rstd = rsqrt(add(meanOf(square(centred)), eps));
    const xhat = multiply(centred, rstd);
    const weighted = multiply(g, weight);
    const projected = add(meanOf(weighted), multiply(xhat, meanOf(multiply(weighted, xhat))));
    const own = multiply(rstd, subtract(weighted, projected));
    const dx = dsum ? add(own, dsum) : own;
    return [cast(dx, x.dtype), cast(sum(multiply(g, xhat), rows), weight.dtype), cast(sum(g, rows), weight.dtype)];
  },
  cost: ([dy, x, , , , dsum]) => ({
    flops: 13 * x.size,
    bytesRead: x.bytes + dy.bytes + (dsum?.bytes ?? 0),
    bytesWritten: x.bytes,
  }),
  kernel: ([dy, x, weight, average, rstd, dsum], outputs, { eps }) => ({
    kernel: 'layer-norm-backward',
    params: kernelParams(x, weight, eps),
    buffers: [dy, x, weight, average, rstd, dsum, ...outputs],
  }),
  inPlace: [
    [0, 0],
    [0, 1],
    [0, 5],
  ],
});

/**
 * Layer normalisation over the last dim.
 *
 * @param x - [..., D], float
 * @param weight - [D], float
 * @param bias - [D], dtype of weight
 * @param eps - added to the variance
 * @returns [..., D], dtype of x
 * @throws HadalError HADAL_ERR_SHAPE, HADAL_ERR_DTYPE
 */
export function layerNorm(x: Value, weight: Value, bias: Value, eps: number): Value {
  return layerNormOp.apply([x, weight, bias], { eps })[0];
}

/**
 * A residual connection and the normalisation after it, in one pass: y = layerNorm(sum), sum = x + residual.
 *
 * @param x - [..., D], float
 * @param residual - as x
 * @param weight - [D], float
 * @param bias - [D], dtype of weight
 * @param eps - added to the variance
 * @returns y [..., D] and sum [..., D], dtype of x; mean [...] and rstd [...], fp32
 * @throws HadalError HADAL_ERR_SHAPE, HADAL_ERR_DTYPE
 */
export function addLayerNorm(
  x: Value,
  residual: Value,
  weight: Value,
  bias: Value,
  eps: number,
): [y: Value, mean: Value, rstd: Value, sum: Value] {
  return addLayerNormOp.apply([x, residual, weight, bias], { eps });
}
