// Embedding: rows of a table by their ids, and its transpose, the sum of rows into a table. Each is the other's gradient.
// V vocabulary, D features.
import { type DType, isFloat } from '../core/dtype.js';
import { sameShape } from '../core/shape.js';
import type { Value } from '../graph/graph.js';
import type { KernelCall } from '../graph/op.js';
import { defineOp, expectDType, expectRank, expectShape } from './define-op.js';
import { matmul } from './matmul.js';

type EmbeddingAttrs = { outputDType: DType };
type BackwardAttrs = EmbeddingAttrs & { vocabulary: number };

/** Dtype of the result. */
export interface EmbeddingOptions {
  /** Default: the dtype of what is looked up or summed. */
  outputDType?: DType;
}

const retype = <A extends EmbeddingAttrs>(attrs: A, _index: number, outputDType: DType) =>
  isFloat(outputDType) ? { ...attrs, outputDType } : null;

const kernelParams = (table: Value, ids: Value, y: Value) => ({
  ids: ids.size,
  vocabulary: table.shape[0] as number,
  dim: table.shape[1] as number,
  dtypeTable: table.dtype,
  dtypeY: y.dtype,
});

const embeddingOp = defineOp<EmbeddingAttrs, [table: Value, ids: Value], [y: Value]>({
  name: 'embedding',
  narrow: [],
  retype,
  // The row of a product is the row of its left factor times the right one.
  ofProduct: (index, a, b, [, ids], { outputDType }) =>
    index === 0 ? [matmul(embedding(a, ids), b, { outputDType })] : null,
  infer([table, ids], { outputDType }) {
    expectRank('embedding', 'table', table, 2);
    expectDType('embedding', 'table', table, 'float');
    expectDType('embedding', 'ids', ids, 'int32');
    return [{ shape: [...ids.shape, table.shape[1] as number], dtype: outputDType }];
  },
  vjp: ({ inputs: [table, ids], gradients: [dy] }) => [
    dy && embeddingBackward(dy, ids, table.shape[0] as number, { outputDType: table.dtype }),
    null,
  ],
  cost: ([table, ids], [y]) => ({
    flops: 0,
    bytesRead: ids.bytes + ids.size * (table.bytes / (table.shape[0] || 1)),
    bytesWritten: y.bytes,
  }),
  kernel: ([table, ids], [y]) => ({
    kernel: 'embedding',
    params: kernelParams(table, ids, y),
    buffers: [table, ids, y],
  }),
});

const backwardCall = (dy: Value, ids: Value, addend: Value | null, dtable: Value): KernelCall => ({
  kernel: 'embedding-backward',
  params: kernelParams(dtable, ids, dy),
  buffers: [dy, ids, addend, dtable],
});

const embeddingBackwardOp = defineOp<BackwardAttrs, [dy: Value, ids: Value], [dtable: Value]>({
  name: 'embedding-backward',
  retype,
  plus: (addend, [dy, ids], attrs, dtype) => {
    const fits = addend.dtype === dtype && sameShape(addend.shape, [attrs.vocabulary, dy.shape.at(-1) as number]);
    return fits ? embeddingAccumulateOp.apply([addend, dy, ids], {})[0] : null;
  },
  infer([dy, ids], { vocabulary, outputDType }) {
    expectDType('embedding-backward', 'dy', dy, 'float');
    expectDType('embedding-backward', 'ids', ids, 'int32');
    const dim = dy.shape.at(-1) ?? null;
    expectShape('embedding-backward', 'dy', dy, [...ids.shape, dim]);
    return [{ shape: [vocabulary, dim as number], dtype: outputDType }];
  },
  vjp: ({ inputs: [dy, ids], gradients: [dtable] }) => [
    dtable && embedding(dtable, ids, { outputDType: dy.dtype }),
    null,
  ],
  cost: ([dy, ids], [dtable]) => ({ flops: dy.size, bytesRead: dy.bytes + ids.bytes, bytesWritten: dtable.bytes }),
  kernel: ([dy, ids], [dtable]) => backwardCall(dy, ids, null, dtable),
});

/** addend + the sum of rows. In place, only rows with ids are touched: how the gradients of tied weights meet. */
const embeddingAccumulateOp = defineOp<Record<never, never>, [addend: Value, dy: Value, ids: Value], [dtable: Value]>({
  name: 'embedding-accumulate',
  inPlace: [[0, 0]],
  infer: ([addend]) => [{ shape: addend.shape, dtype: addend.dtype }],
  vjp: ({ inputs: [, dy, ids], gradients: [dtable] }) => [
    dtable,
    dtable && embedding(dtable, ids, { outputDType: dy.dtype }),
    null,
  ],
  cost: ([, dy, ids]) => ({ flops: dy.size, bytesRead: 2 * dy.bytes + ids.bytes, bytesWritten: dy.bytes }),
  kernel: ([addend, dy, ids], [dtable]) => backwardCall(dy, ids, addend, dtable),
});

/**
 * Rows of a table. An id outside of the table ends the step with an error that names both.
 *
 * @param table - [V, D], float
 * @param ids - int32, any shape, 0 … V − 1
 * @returns [...ids, D]
 * @throws HadalError HADAL_ERR_SHAPE, HADAL_ERR_DTYPE
 */
export function embedding(table: Value, ids: Value, options: EmbeddingOptions = {}): Value {
  const { outputDType = table.dtype } = options;
  return embeddingOp.apply([table, ids], { outputDType })[0];
}

/**
 * Sums rows into a table: row v of the result is the sum of the dy whose id is v, in their order, in fp32; 0 without any.
 *
 * @param dy - [...ids, D], float
 * @param ids - int32, any shape, 0 … vocabulary − 1
 * @returns [vocabulary, D]
 * @throws HadalError HADAL_ERR_SHAPE, HADAL_ERR_DTYPE
 */
export function embeddingBackward(dy: Value, ids: Value, vocabulary: number, options: EmbeddingOptions = {}): Value {
  const { outputDType = dy.dtype } = options;
  return embeddingBackwardOp.apply([dy, ids], { vocabulary, outputDType })[0];
}
