// LayerNorm. Ba et al. 2016, arXiv:1607.06450: y = (x − mean) · rstd · weight + bias, rstd = 1/√(variance + eps).
// R rows (all dims but the last), D features.
import type { Value } from '../graph/graph.js';
import { defineOp, expectDType, expectShape } from './define-op.js';
import { add, cast, multiply, rsqrt, square, subtract } from './elementwise.js';
import { mean, sum } from './reduce.js';

type LayerNormAttrs = { eps: number };

const kernelParams = (x: Value, weight: Value, eps: number) => {
  const dim = x.shape.at(-1) as number;
  return { rows: x.size / dim, dim, eps, dtype: x.dtype, weightDtype: weight.dtype };
};

const layerNormOp = defineOp<
  LayerNormAttrs,
  [x: Value, weight: Value, bias: Value],
  [y: Value, mean: Value, rstd: Value]
>({
  name: 'layer-norm',
  narrow: [0],
  infer([x, weight, bias]) {
    expectDType('layer-norm', 'x', x, 'float');
    expectDType('layer-norm', 'weight', weight, 'float');
    expectDType('layer-norm', 'bias', bias, weight.dtype);
    expectShape('layer-norm', 'weight', weight, [x.shape.at(-1) ?? null]);
    expectShape('layer-norm', 'bias', bias, weight.shape);
    const statistic = { shape: x.shape.slice(0, -1), dtype: 'fp32' } as const;
    return [{ shape: x.shape, dtype: x.dtype }, statistic, statistic];
  },
  vjp: ({ inputs: [x, weight], outputs: [, average, rstd], gradients: [dy], attrs }) =>
    dy ? layerNormBackwardOp.apply([dy, x, weight, average, rstd], attrs) : [null, null, null],
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

const layerNormBackwardOp = defineOp<
  LayerNormAttrs,
  [dy: Value, x: Value, weight: Value, mean: Value, rstd: Value],
  [dx: Value, dweight: Value, dbias: Value]
>({
  name: 'layer-norm-backward',
  infer: ([, x, weight]) => [
    { shape: x.shape, dtype: x.dtype },
    { shape: weight.shape, dtype: weight.dtype },
    { shape: weight.shape, dtype: weight.dtype },
  ],
  // Mean and rstd are recomputed from x so that the lowered form depends on x through every path.
  lower([dy, x, weight], { eps }) {
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
    const dx = multiply(rstd, subtract(weighted, projected));
    return [cast(dx, x.dtype), cast(sum(multiply(g, xhat), rows), weight.dtype), cast(sum(g, rows), weight.dtype)];
  },
  cost: ([dy, x]) => ({
    flops: 13 * x.size,
    bytesRead: x.bytes + dy.bytes,
    bytesWritten: x.bytes,
  }),
  kernel: ([dy, x, weight, average, rstd], outputs, { eps }) => ({
    kernel: 'layer-norm-backward',
    params: kernelParams(x, weight, eps),
    buffers: [dy, x, weight, average, rstd, ...outputs],
  }),
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
