// Columns made orthonormal, matrix by matrix. Formula: native/ops/orthogonalize.h.
// R rows, C columns
import { HadalError } from '../core/errors.js';
import { sizeOf } from '../core/shape.js';
import type { Value } from '../graph/graph.js';
import { defineOp, expectDType } from './define-op.js';

const orthogonalizeOp = defineOp<Record<never, never>, [x: Value], [Value]>({
  name: 'orthogonalize',
  inPlace: [[0, 0]],
  infer([x]) {
    const [rows, columns] = x.shape.slice(-2);
    expectDType('orthogonalize', 'x', x, 'fp32');
    if (rows === undefined || columns === undefined || columns > rows || x.extent) {
      throw new HadalError(
        'HADAL_ERR_SHAPE',
        `[orthogonalize] expected whole matrices of no more columns than rows, got ${x.type}`,
      );
    }
    return [{ shape: x.shape, dtype: 'fp32' }];
  },
  cost: ([x], [y]) => ({ flops: 8 * x.size * (x.shape.at(-1) as number), bytesRead: x.bytes, bytesWritten: y.bytes }),
  kernel: ([x], [y]) => {
    const [rows, columns] = x.shape.slice(-2) as [number, number];
    return { kernel: 'orthogonalize', params: { batch: sizeOf(x.shape.slice(0, -2)), rows, columns }, buffers: [x, y] };
  },
});

/**
 * Orthonormal columns that span what those of x do; where these depend on each other or are zero, pseudo-random ones fill up.
 * Gram–Schmidt in double.
 *
 * @param x - fp32 [..., R, C], C ≤ R
 * @throws HadalError HADAL_ERR_SHAPE, HADAL_ERR_DTYPE
 */
export function orthogonalize(x: Value): Value {
  return orthogonalizeOp.apply([x], {})[0];
}
