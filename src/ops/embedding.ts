// Embedding: rows of a table by their ids, and its transpose, the sum of rows into a table. Each is the other's gradient.
// V vocabulary, D features.
import type { Value } from '../graph/graph.js';
import { defineOp, expectDType, expectRank, expectShape } from './define-op.js';

type NoAttrs = Record<never, never>;

const kernelParams = (table: Value, ids: Value) => ({
  ids: ids.size,
  vocabulary: table.shape[0] as number,
  dim: table.shape[1] as number,
  dtype: table.dtype,
});

const embeddingOp = defineOp<NoAttrs, [table: Value, ids: Value], [y: Value]>({
  name: 'embedding',
  narrow: [],
  infer([table, ids]) {
    expectRank('embedding', 'table', table, 2);
    expectDType('embedding', 'table', table, 'float');
    expectDType('embedding', 'ids', ids, 'int32');
    return [{ shape: [...ids.shape, table.shape[1] as number], dtype: table.dtype }];
  },
  vjp: ({ inputs: [table, ids], gradients: [dy] }) => [
    dy && embeddingBackward(dy, ids, table.shape[0] as number),
    null,
  ],
  cost: ([, ids], [y]) => ({ flops: 0, bytesRead: ids.bytes + y.bytes, bytesWritten: y.bytes }),
  kernel: ([table, ids], [y]) => ({ kernel: 'embedding', params: kernelParams(table, ids), buffers: [table, ids, y] }),
});

const embeddingBackwardOp = defineOp<{ vocabulary: number }, [dy: Value, ids: Value], [dtable: Value]>({
  name: 'embedding-backward',
  infer([dy, ids], { vocabulary }) {
    expectDType('embedding-backward', 'dy', dy, 'float');
    expectDType('embedding-backward', 'ids', ids, 'int32');
    const dim = dy.shape.at(-1) ?? null;
    expectShape('embedding-backward', 'dy', dy, [...ids.shape, dim]);
    return [{ shape: [vocabulary, dim as number], dtype: dy.dtype }];
  },
  vjp: ({ inputs: [, ids], gradients: [dtable] }) => [dtable && embedding(dtable, ids), null],
  cost: ([dy, ids], [dtable]) => ({ flops: dy.size, bytesRead: dy.bytes + ids.bytes, bytesWritten: dtable.bytes }),
  kernel: ([dy, ids], [dtable]) => ({
    kernel: 'embedding-backward',
    params: kernelParams(dtable, ids),
    buffers: [dy, ids, dtable],
  }),
});

/**
 * Rows of a table. An id outside of the table ends the step with an error that names both.
 *
 * @param table - [V, D], float
 * @param ids - int32, any shape, 0 … V − 1
 * @returns [...ids, D], dtype of table
 * @throws HadalError HADAL_ERR_SHAPE, HADAL_ERR_DTYPE
 */
export function embedding(table: Value, ids: Value): Value {
  return embeddingOp.apply([table, ids], {})[0];
}

/**
 * Sums rows into a table: row v of the result is the sum of the dy whose id is v, in their order, in fp32; 0 without any.
 *
 * @param dy - [...ids, D], float
 * @param ids - int32, any shape, 0 … vocabulary − 1
 * @returns [vocabulary, D], dtype of dy
 * @throws HadalError HADAL_ERR_SHAPE, HADAL_ERR_DTYPE
 */
export function embeddingBackward(dy: Value, ids: Value, vocabulary: number): Value {
  return embeddingBackwardOp.apply([dy, ids], { vocabulary })[0];
}
