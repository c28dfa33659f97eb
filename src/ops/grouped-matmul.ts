// Products of groups of rows, one weight matrix a group: the experts of a mixture-of-experts layer.
// R rows sorted by group, E groups; group e has rows offsets[e] … offsets[e + 1] − 1, known on the device only.
import type { DType } from '../core/dtype.js';
import type { Value } from '../graph/graph.js';
import { defineOp, expectDType, expectRank, expectShape } from './define-op.js';

// Neither op has a lowered form: each is the gradient of the other, so any order of gradients stays within the two.

type GroupedMatmulAttrs = { transposeB: boolean; outputDType: DType };

const groupedMatmulOp = defineOp<GroupedMatmulAttrs, [x: Value, w: Value, offsets: Value], [y: Value]>({
  name: 'grouped-matmul',
  narrow: [0, 1],
  infer([x, w, offsets], { transposeB, outputDType }) {
    expectRank('grouped-matmul', 'x', x, 2);
    const [rows, k] = x.shape as [number, number];
    expectShape('grouped-matmul', 'w', w, transposeB ? [null, null, k] : [null, k, null]);
    expectShape('grouped-matmul', 'offsets', offsets, [(w.shape[0] as number) + 1]);
    expectDType('grouped-matmul', 'x', x, 'float');
    expectDType('grouped-matmul', 'w', w, 'float');
    expectDType('grouped-matmul', 'offsets', offsets, 'int32');
    return [{ shape: [rows, w.shape[transposeB ? 1 : 2] as number], dtype: outputDType, extent: x.extent }];
  },
  vjp({ inputs: [x, w, offsets], gradients: [dy], attrs: { transposeB }, needs }) {
    if (!dy) return [null, null, null];
    const dx = () => groupedMatmul(dy, w, offsets, { transposeB: !transposeB, outputDType: x.dtype });
    const dw = () =>
      transposeB
        ? groupedMatmulWeightGradient(dy, x, offsets, w.dtype)
        : groupedMatmulWeightGradient(x, dy, offsets, w.dtype);
    return [needs[0] ? dx() : null, needs[1] ? dw() : null, null];
  },
  cost: ([x, w], [y]) => ({
    flops: 2 * x.size * (y.shape[1] as number),
    bytesRead: x.bytes + w.bytes,
    bytesWritten: y.bytes,
  }),
  kernel: ([x, w, offsets], [y], { transposeB }) => ({
    kernel: 'grouped-matmul',
    params: {
      rows: x.shape[0] as number,
      groups: w.shape[0] as number,
      n: y.shape[1] as number,
      k: x.shape[1] as number,
      transposeB: Number(transposeB),
      dtypeX: x.dtype,
      dtypeW: w.dtype,
      dtypeY: y.dtype,
    },
    buffers: [x, w, offsets, y],
  }),
});

const weightGradientOp = defineOp<{ outputDType: DType }, [a: Value, b: Value, offsets: Value], [c: Value]>({
  name: 'grouped-matmul-weight-gradient',
  infer([a, b, offsets], { outputDType }) {
    const name = 'grouped-matmul-weight-gradient';
    expectRank(name, 'a', a, 2);
    expectShape(name, 'b', b, [a.shape[0] as number, null]);
    expectRank(name, 'offsets', offsets, 1);
    expectDType(name, 'a', a, 'float');
    expectDType(name, 'b', b, 'float');
    expectDType(name, 'offsets', offsets, 'int32');
    return [
      { shape: [(offsets.shape[0] as number) - 1, a.shape[1] as number, b.shape[1] as number], dtype: outputDType },
    ];
  },
  vjp({ inputs: [a, b, offsets], gradients: [dc], needs }) {
    if (!dc) return [null, null, null];
    return [
      needs[0] ? groupedMatmul(b, dc, offsets, { transposeB: true, outputDType: a.dtype }) : null,
      needs[1] ? groupedMatmul(a, dc, offsets, { transposeB: false, outputDType: b.dtype }) : null,
      null,
    ];
  },
  cost: ([a, b], [c]) => ({
    flops: 2 * a.size * (b.shape[1] as number),
    bytesRead: a.bytes + b.bytes,
    bytesWritten: c.bytes,
  }),
  kernel: ([a, b, offsets], [c]) => ({
    kernel: 'grouped-matmul-weight-gradient',
    params: {
      rows: a.shape[0] as number,
      groups: c.shape[0] as number,
      m: a.shape[1] as number,
      n: b.shape[1] as number,
      dtypeA: a.dtype,
      dtypeB: b.dtype,
      dtypeC: c.dtype,
    },
    buffers: [a, b, offsets, c],
  }),
});

/**
 * Each group's rows times that group's matrix: y_e = x_e · w_e.
 *
 * @param x - [R, K], float, rows sorted by group
 * @param w - [E, K, N], float; [E, N, K] with `transposeB`
 * @param offsets - int32 [E + 1], not decreasing, offsets[E] ≤ R; other values end the step with an error
 * @returns [R, N], dtype of x unless `outputDType` says otherwise; rows outside of all groups are undefined
 * @throws HadalError HADAL_ERR_SHAPE, HADAL_ERR_DTYPE
 */
export function groupedMatmul(
  x: Value,
  w: Value,
  offsets: Value,
  options: { transposeB?: boolean; outputDType?: DType } = {},
): Value {
  const { transposeB = false, outputDType = x.dtype } = options;
  return groupedMatmulOp.apply([x, w, offsets], { transposeB, outputDType })[0];
}

/**
 * What each group's rows sum up to: c_e = a_eᵀ · b_e, zeros for an empty group.
 *
 * @param a - [R, M], float, rows sorted by group
 * @param b - [R, N], float
 * @param offsets - int32 [E + 1], as for {@link groupedMatmul}
 * @returns [E, M, N]
 * @throws HadalError HADAL_ERR_SHAPE, HADAL_ERR_DTYPE
 */
export function groupedMatmulWeightGradient(a: Value, b: Value, offsets: Value, outputDType: DType = a.dtype): Value {
  return weightGradientOp.apply([a, b, offsets], { outputDType })[0];
}
