// Products with weights packed beforehand, for few rows at a time: packed weights are Values like any other, so that a
// decoding program reads them as slots and nothing is packed while it runs. Not differentiable: a packed weight serves inference.
// M rows, N columns, K terms, P = ⌈N / 32⌉ panels, H products side by side (of attention heads, say)
import type { DType } from '../core/dtype.js';
import { HadalError } from '../core/errors.js';
import { sizeOf } from '../core/shape.js';
import type { Value } from '../graph/graph.js';
import { defineOp, expectDType, expectRank, expectShape } from './define-op.js';

/** Columns of a panel; native/ops/packed-matmul.h has the same number. */
const panelColumns = 32;

type PackWeightsAttrs = { transposeB: boolean };
type PackedMatmulAttrs = { n: number; outputDType: DType };

const sizesOfWeight = (w: Value, { transposeB }: PackWeightsAttrs) => {
  const [rows, columns] = w.shape.slice(-2) as [number, number];
  return { batch: sizeOf(w.shape.slice(0, -2)), ...(transposeB ? { n: rows, k: columns } : { n: columns, k: rows }) };
};
const panelsOf = (n: number) => Math.ceil(n / panelColumns);

const packWeightsOp = defineOp<PackWeightsAttrs, [w_KN: Value], [packed_PK32: Value]>({
  name: 'pack-weights',
  infer([w], attrs) {
    expectDType('pack-weights', 'w', w, 'float');
    expectShape('pack-weights', 'w', w, w.shape.length === 3 ? [null, null, null] : [null, null]);
    const { n, k } = sizesOfWeight(w, attrs);
    return [{ shape: [...w.shape.slice(0, -2), panelsOf(n), k, panelColumns], dtype: w.dtype }];
  },
  kernel: ([w], [packed], attrs) => ({
    kernel: 'pack-weights',
    params: { ...sizesOfWeight(w, attrs), transposeB: Number(attrs.transposeB), dtype: w.dtype },
    buffers: [w, packed],
  }),
});

const packedMatmulOp = defineOp<PackedMatmulAttrs, [a_MK: Value, packed_PK32: Value], [c_MN: Value]>({
  name: 'packed-matmul',
  infer([a, packed], { n, outputDType }) {
    expectDType('packed-matmul', 'a', a, 'float');
    expectDType('packed-matmul', 'packed', packed, 'float');
    if (!Number.isInteger(n) || n < 0) {
      throw new HadalError('HADAL_ERR_SHAPE', `[packed-matmul] expected a number of columns n >= 0, got ${n}`);
    }
    const heads = packed.shape.length === 4 ? [a.shape.length === 3 ? (a.shape[0] as number) : null] : [];
    expectShape('packed-matmul', 'packed', packed, [...heads, panelsOf(n), a.shape.at(-1) ?? null, panelColumns]);
    if (heads.length > 0) expectRank('packed-matmul', 'a', a, 3);
    const isRowsFirst = a.shape.length > 1;
    return [{ shape: [...a.shape.slice(0, -1), n], dtype: outputDType, extent: isRowsFirst ? a.extent : null }];
  },
  cost: ([a, packed], [c], { n }) => ({
    flops: 2 * a.size * n,
    bytesRead: a.bytes + packed.bytes,
    bytesWritten: c.bytes,
  }),
  kernel([a, packed], [c], { n }) {
    const k = packed.shape.at(-2) as number;
    const batch = packed.shape.length === 4 ? (packed.shape[0] as number) : 1;
    const m = packed.shape.length === 4 ? (a.shape[1] as number) : sizeOf(a.shape.slice(0, -1));
    return {
      kernel: 'packed-matmul',
      params: { batch, m, n, k, dtypeA: a.dtype, dtypeW: packed.dtype, dtypeC: c.dtype },
      buffers: [a, packed, c],
    };
  },
});

/**
 * Brings a weight into the order in which {@link packedMatmul} reads it.
 *
 * @param w - [K, N] or [H, K, N], float; K and N swapped with `transposeB`, as in the weight of a linear layer
 * @returns [⌈N / 32⌉, K, 32] or [H, ⌈N / 32⌉, K, 32], dtype of w
 * @throws HadalError HADAL_ERR_SHAPE, HADAL_ERR_DTYPE
 */
export function packWeights(w: Value, { transposeB = false }: { transposeB?: boolean } = {}): Value {
  return packWeightsOp.apply([w], { transposeB })[0];
}

/**
 * Product with a packed weight, accumulated in fp32 whatever the dtypes. Faster than `matmul` where rows are few, as when
 * tokens are decoded; a row's result does not depend on the rows beside it. Has no gradient.
 *
 * @param a - [..., M, K], float; [H, M, K] where `packed` has H
 * @param packed - result of {@link packWeights}, [⌈N / 32⌉, K, 32] or [H, ⌈N / 32⌉, K, 32], float
 * @param options - `n`: columns of the weight; `outputDType`: the dtype of a unless given
 * @returns [..., M, N]
 * @throws HadalError HADAL_ERR_SHAPE, HADAL_ERR_DTYPE
 */
export function packedMatmul(a: Value, packed: Value, options: { n: number; outputDType?: DType }): Value {
  const { n, outputDType = a.dtype } = options;
  return packedMatmulOp.apply([a, packed], { n, outputDType })[0];
}
