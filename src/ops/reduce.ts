// Reductions: rows of one table. Sums and means are in fp32 over fixed blocks; see native/ops/reduce.h.
import { isFloat } from '../core/dtype.js';
import { HadalError } from '../core/errors.js';
import { type Shape, sameShape, sizeOf } from '../core/shape.js';
import type { Value } from '../graph/graph.js';
import { defineOp } from './define-op.js';
import { divide, equal, multiply } from './elementwise.js';
import { broadcastTo, reshape } from './shape.js';

/** Reduces dims [first, last) of x; the result keeps them as size 1. */
type ReduceAttrs = { reduction: keyof typeof reductions; first: number; last: number; scale: number };

/** Numbers shared with native/ops/reduce.h, and the gradient by x. */
const reductions = {
  sum: {
    code: 0,
    gradient: (x: Value, _y: Value, dy: Value, scale: number) => multiply(broadcastTo(dy, x.shape), scale),
  },
  max: {
    code: 1,
    // Shared evenly among ties.
    gradient: (x: Value, y: Value, dy: Value) => {
      const hits = equal(x, y);
      const axes = x.shape.map((_, i) => i).filter((i) => y.shape[i] === 1);
      return multiply(hits, divide(dy, sum(hits, axes, true)));
    },
  },
  sumOfSquares: {
    code: 2,
    gradient: (x: Value, _y: Value, dy: Value, scale: number) => multiply(multiply(x, dy), 2 * scale),
  },
} as const;

// The extent of x is an input of its own where dim 0 is reduced, so that whatever runs the op sees the dependency.
const reduceOp = defineOp<ReduceAttrs, [x: Value, extent: Value | null], [Value]>({
  name: 'reduce',
  infer: ([x], { first, last }) => [
    {
      shape: x.shape.map((dim, i) => (i >= first && i < last ? 1 : dim)),
      dtype: x.dtype,
      extent: first > 0 ? x.extent : null,
    },
  ],
  vjp({ inputs: [x], outputs: [y], gradients: [dy], attrs }) {
    if (!dy || !isFloat(x.dtype)) return [null, null];
    return [reductions[attrs.reduction].gradient(x, y, dy, attrs.scale), null];
  },
  cost: ([x], [y]) => ({ flops: x.size, bytesRead: x.bytes, bytesWritten: y.bytes }),
  kernel: ([x, extent], [y], { reduction, first, last, scale }) => ({
    kernel: 'reduce',
    params: {
      outer: sizeOf(x.shape.slice(0, first)),
      reduced: sizeOf(x.shape.slice(first, last)),
      inner: sizeOf(x.shape.slice(last)),
      reduction: reductions[reduction].code,
      extentUnit: extent ? sizeOf(x.shape.slice(1, last)) : 0,
      scale,
      dtype: x.dtype,
      outputType: y.dtype,
    },
    buffers: [x, extent, y],
  }),
});

function reduce(
  x: Value,
  reduction: ReduceAttrs['reduction'],
  axes: readonly number[],
  keepDims: boolean,
  scale = 1,
): Value {
  const sorted = [...new Set(axes)].sort((a, b) => a - b);
  if (sorted.some((axis) => !Number.isInteger(axis) || axis < 0 || axis >= x.shape.length)) {
    throw new HadalError('HADAL_ERR_SHAPE', `[${reduction}] expected axes within ${x.type}, got [${axes.join(', ')}]`);
  }
  let y = x;
  // Runs of neighbouring axes, the last one first; the scale is applied once.
  let end = sorted.length;
  while (end > 0) {
    let begin = end - 1;
    while (begin > 0 && sorted[begin - 1] === (sorted[begin] as number) - 1) begin--;
    const attrs = {
      reduction: y === x ? reduction : reduction === 'sumOfSquares' ? ('sum' as const) : reduction,
      first: sorted[begin] as number,
      last: (sorted[end - 1] as number) + 1,
      scale: y === x ? scale : 1,
    };
    y = reduceOp.apply([y, attrs.first === 0 ? y.extent : null], attrs)[0];
    end = begin;
  }
  return keepDims
    ? y
    : reshape(
        y,
        y.shape.filter((_, i) => !sorted.includes(i)),
      );
}

/** Sum over axes. */
export function sum(x: Value, axes: readonly number[], keepDims = false): Value {
  return reduce(x, 'sum', axes, keepDims);
}

/** Mean over axes. */
export function mean(x: Value, axes: readonly number[], keepDims = false): Value {
  const count = axes.reduce((product, axis) => product * (x.shape[axis] ?? 1), 1);
  return reduce(x, 'sum', axes, keepDims, 1 / count);
}

/** Greatest element over axes; the gradient is shared evenly among ties. */
export function max(x: Value, axes: readonly number[], keepDims = false): Value {
  return reduce(x, 'max', axes, keepDims);
}

/** Sum of x² over axes, in one pass. */
export function sumOfSquares(x: Value, axes: readonly number[], keepDims = false): Value {
  return reduce(x, 'sumOfSquares', axes, keepDims);
}

/** Undoes broadcasting: sums x over the dims in which `shape` is smaller. */
export function sumTo(x: Value, shape: Shape): Value {
  if (sameShape(x.shape, shape)) return x;
  const missing = x.shape.length - shape.length;
  const axes = x.shape.map((_, i) => i).filter((i) => i < missing || (shape[i - missing] === 1 && x.shape[i] !== 1));
  return reshape(sum(x, axes, true), shape);
}
