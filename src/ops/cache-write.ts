// New tokens into a key-value cache of fixed capacity.
// B batch, S capacity, T new tokens; what a token's row holds is free: [B, S, …] and [B, T, …].
import { bytesOf } from '../core/dtype.js';
import { sizeOf } from '../core/shape.js';
import type { Value } from '../graph/graph.js';
import { defineOp, expectDType, expectShape } from './define-op.js';

type CacheWriteInputs = [cache: Value, x: Value, start_B: Value, counts_B: Value | null];

const cacheWriteOp = defineOp<Record<never, never>, CacheWriteInputs, [Value]>({
  name: 'cache-write',
  inPlace: [[0, 0]],
  infer([cache, x, start, counts]) {
    const [batch = 0, , ...row] = cache.shape;
    expectDType('cache-write', 'x', x, cache.dtype);
    expectShape('cache-write', 'x', x, [batch, null, ...row]);
    expectDType('cache-write', 'start', start, 'int32');
    expectShape('cache-write', 'start', start, [batch]);
    if (counts) {
      expectDType('cache-write', 'counts', counts, 'int32');
      expectShape('cache-write', 'counts', counts, [batch]);
    }
    return [{ shape: cache.shape, dtype: cache.dtype }];
  },
  cost: ([, x]) => ({ flops: 0, bytesRead: x.bytes, bytesWritten: x.bytes }),
  kernel: ([cache, x, start, counts], [y]) => {
    const [batch = 0, capacity = 0, ...row] = cache.shape;
    return {
      kernel: 'cache-write',
      params: { batch, capacity, tokens: x.shape[1] as number, rowBytes: bytesOf(cache.dtype, sizeOf(row)) },
      buffers: [cache, x, start, counts, y],
    };
  },
});

/**
 * The cache with tokens start[b] … start[b] + counts[b] of each batch entry replaced, in place where nobody else reads the
 * old one. Not differentiable. The run fails where start + counts exceeds S.
 *
 * @param cache - [B, S, …]
 * @param x - [B, T, …], dtype of the cache
 * @param start - int32 [B]
 * @param counts - int32 [B], how many of the T tokens are written, from the first on; null: all
 * @returns [B, S, …]
 * @throws HadalError HADAL_ERR_SHAPE, HADAL_ERR_DTYPE
 */
export function cacheWrite(cache: Value, x: Value, start: Value, counts: Value | null = null): Value {
  return cacheWriteOp.apply([cache, x, start, counts], {})[0];
}
