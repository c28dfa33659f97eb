// Range, zeros and what is not finite of a tensor, in one pass. Formula: native/ops/statistics.h.
import { sizeOf } from '../core/shape.js';
import type { Value } from '../graph/graph.js';
import { defineOp, expectDType } from './define-op.js';

/** What {@link statistics} counts, in the order it gives it. Both ends of the range are of the finite numbers. */
export const statisticNames = ['smallest', 'greatest', 'zeros', 'notFinite', 'count'] as const;

// The extent of x is an input of its own, so that whatever runs the op sees the dependency.
const statisticsOp = defineOp<object, [x: Value, extent: Value | null], [Value]>({
  name: 'statistics',
  infer([x]) {
    expectDType('statistics', 'x', x, 'float');
    return [{ shape: [statisticNames.length], dtype: 'fp32' }];
  },
  // Watching changes nothing.
  vjp: () => [null, null],
  cost: ([x], [y]) => ({ flops: 4 * x.size, bytesRead: x.bytes, bytesWritten: y.bytes }),
  kernel: ([x, extent], [y]) => ({
    kernel: 'statistics',
    params: { count: x.size, unit: extent ? sizeOf(x.shape.slice(1)) : 0, dtype: x.dtype },
    buffers: [x, extent, y],
  }),
});

/**
 * The health of a tensor: smallest and greatest finite number (∞ and −∞ where there is none), how many are zero, how many are
 * infinite or NaN, how many there are. Of a bounded tensor, what is in use counts.
 *
 * @param x - any shape, float
 * @returns fp32 [5], no gradient
 * @throws HadalError HADAL_ERR_DTYPE
 */
export function statistics(x: Value): Value {
  return statisticsOp.apply([x, x.extent], {})[0];
}
