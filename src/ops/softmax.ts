// Softmax over the last dim: y = exp(x − max) / Σ exp(x − max); dx = y · (dy − Σ y·dy).
import { HadalError } from '../core/errors.js';
import type { Value } from '../graph/graph.js';
import { defineOp, expectDType } from './define-op.js';
import { cast, divide, equal, exp, multiply, subtract, where } from './elementwise.js';
import { max, sum } from './reduce.js';

type NoAttrs = Record<never, never>;

const kernelParams = (x: Value) => {
  const dim = x.shape.at(-1) as number;
  return { rows: x.size / dim, dim, dtype: x.dtype };
};

const softmaxOp = defineOp<NoAttrs, [x: Value], [y: Value]>({
  name: 'softmax',
  infer([x]) {
    expectDType('softmax', 'x', x, 'float');
    if (!x.shape.at(-1))
      throw new HadalError('HADAL_ERR_SHAPE', `[softmax] expected a last dim of 1 or more, got ${x.type}`);
    return [{ shape: x.shape, dtype: x.dtype }];
  },
  vjp: ({ outputs: [y], gradients: [dy] }) => (dy ? softmaxBackwardOp.apply([dy, y], {}) : [null]),
  lower([x]) {
    const last = [x.shape.length - 1];
    const x32 = cast(x, 'fp32');
    const most = max(x32, last, true);
    // A row of nothing but −∞ gives zeros.
    const shift = where(equal(most, Number.NEGATIVE_INFINITY), 0, most);
    const powers = exp(subtract(x32, shift));
    const total = sum(powers, last, true);
    return [cast(divide(powers, where(equal(total, 0), 1, total)), x.dtype)];
  },
  cost: ([x], [y]) => ({ flops: 12 * x.size, bytesRead: x.bytes, bytesWritten: y.bytes }),
  kernel: ([x], [y]) => ({ kernel: 'softmax', params: kernelParams(x), buffers: [x, y] }),
  inPlace: [[0, 0]],
});

const softmaxBackwardOp = defineOp<NoAttrs, [dy: Value, y: Value], [dx: Value]>({
  name: 'softmax-backward',
  infer: ([, y]) => [{ shape: y.shape, dtype: y.dtype }],
  lower([dy, y]) {
    const g = cast(dy, 'fp32');
    const y32 = cast(y, 'fp32');
    const dot = sum(multiply(y32, g), [y.shape.length - 1], true);
    return [cast(multiply(y32, subtract(g, dot)), y.dtype)];
  },
  cost: ([dy, y], [dx]) => ({ flops: 4 * y.size, bytesRead: dy.bytes + y.bytes, bytesWritten: dx.bytes }),
  kernel: ([dy, y], [dx]) => ({ kernel: 'softmax-backward', params: kernelParams(y), buffers: [dy, y, dx] }),
  inPlace: [[0, 0]],
});

/**
 * Softmax over the last dim. A row of nothing but −∞ (everything masked) gives zeros.
 *
 * @param x - [..., D], float; statistics are fp32
 * @returns [..., D], dtype of x
 * @throws HadalError HADAL_ERR_SHAPE, HADAL_ERR_DTYPE
 */
export function softmax(x: Value): Value {
  return softmaxOp.apply([x], {})[0];
}
