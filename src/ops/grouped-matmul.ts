// Products of groups of rows, one weight matrix a group: the experts of a mixture-of-experts layer.
// R rows sorted by group, E groups; group e has rows offsets[e] … offsets[e + 1] − 1, known on the device only.
import { type DType, isFloat } from '../core/dtype.js';
import { sameShape } from '../core/shape.js';
import type { Node, Value } from '../graph/graph.js';
import type { KernelCall, OpDefinition, TypeSpec } from '../graph/op.js';
import { defineOp, expectDType, expectRank, expectShape } from './define-op.js';

// None of the ops has a lowered form: products and weight gradients are each other's gradients, to any order.

type OutputAttrs = { outputDType: DType };
type GroupedMatmulAttrs = OutputAttrs & { transposeB: boolean };

const retype = <A extends OutputAttrs>(attrs: A, _index: number, outputDType: DType) =>
  isFloat(outputDType) ? { ...attrs, outputDType } : null;

const groupedMatmulOp = defineOp<GroupedMatmulAttrs, [x: Value, w: Value, offsets: Value], [y: Value]>({
  name: 'grouped-matmul',
  narrow: [0, 1],
  retype,
  ofProduct(index, a, b, [x, , offsets], { transposeB, outputDType }) {
    if (index !== 1) return null;
    const [first, second] = transposeB ? [b, a] : [a, b];
    const inner = groupedMatmul(x, first, offsets, { transposeB });
    return [groupedMatmul(inner, second, offsets, { transposeB, outputDType })];
  },
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

/** A product of groups of rows, as {@link groupedMatmul} took it. */
export interface GroupedProduct {
  /** [R, K]. */
  x: Value;
  /** [E, K, N]; K and N swapped with `transposeB`. */
  w: Value;
  offsets: Value;
  transposeB: boolean;
}

/** What a node multiplies, where it is a `groupedMatmul`; else null. */
export function groupedProduct({ op, inputs, attrs }: Node): GroupedProduct | null {
  if (op !== (groupedMatmulOp as unknown as OpDefinition)) return null;
  const [x, w, offsets] = inputs as [Value, Value, Value];
  return { x, w, offsets, transposeB: (attrs as GroupedMatmulAttrs).transposeB };
}

function inferWeightGradient(op: string, a: Value, b: Value, offsets: Value, dtype: DType): TypeSpec {
  expectRank(op, 'a', a, 2);
  expectShape(op, 'b', b, [a.shape[0] as number, null]);
  expectRank(op, 'offsets', offsets, 1);
  expectDType(op, 'a', a, 'float');
  expectDType(op, 'b', b, 'float');
  expectDType(op, 'offsets', offsets, 'int32');
  return { shape: [(offsets.shape[0] as number) - 1, a.shape[1] as number, b.shape[1] as number], dtype };
}

function weightGradientVjp(a: Value, b: Value, offsets: Value, dc: Value | null, needs: readonly [boolean, boolean]) {
  if (!dc) return [null, null, null];
  return [
    needs[0] ? groupedMatmul(b, dc, offsets, { transposeB: true, outputDType: a.dtype }) : null,
    needs[1] ? groupedMatmul(a, dc, offsets, { transposeB: false, outputDType: b.dtype }) : null,
    null,
  ];
}

const weightGradientCall = (a: Value, b: Value, offsets: Value, addend: Value | null, c: Value): KernelCall => ({
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
  buffers: [a, b, offsets, addend, c],
});

const weightGradientOp = defineOp<OutputAttrs, [a: Value, b: Value, offsets: Value], [c: Value]>({
  name: 'grouped-matmul-weight-gradient',
  retype,
  plus(addend, [a, b, offsets], _, dtype) {
    const { shape } = inferWeightGradient('grouped-matmul-weight-gradient', a, b, offsets, dtype);
    const fits = addend.dtype === dtype && sameShape(addend.shape, shape);
    return fits ? groupedMatmulWeightGradientAccumulate(addend, a, b, offsets) : null;
  },
  infer: ([a, b, offsets], { outputDType }) => [
    inferWeightGradient('grouped-matmul-weight-gradient', a, b, offsets, outputDType),
  ],
  vjp: ({ inputs: [a, b, offsets], gradients: [dc], needs: [needsA, needsB] }) =>
    weightGradientVjp(a, b, offsets, dc, [needsA, needsB]),
  cost: ([a, b], [c]) => ({
    flops: 2 * a.size * (b.shape[1] as number),
    bytesRead: a.bytes + b.bytes,
    bytesWritten: c.bytes,
  }),
  kernel: ([a, b, offsets], [c]) => weightGradientCall(a, b, offsets, null, c),
});

type AccumulateInputs = [accumulator: Value, a: Value, b: Value, offsets: Value];

const weightGradientAccumulateOp = defineOp<Record<never, never>, AccumulateInputs, [c: Value]>({
  name: 'grouped-matmul-weight-gradient-accumulate',
  inPlace: [[0, 0]],
  infer([accumulator, a, b, offsets]) {
    const op = 'grouped-matmul-weight-gradient-accumulate';
    expectDType(op, 'accumulator', accumulator, 'float');
    const type = inferWeightGradient(op, a, b, offsets, accumulator.dtype);
    expectShape(op, 'accumulator', accumulator, type.shape);
    return [type];
  },
  vjp: ({ inputs: [, a, b, offsets], gradients: [dc], needs: [, needsA, needsB] }) => [
    dc,
    ...weightGradientVjp(a, b, offsets, dc, [needsA, needsB]),
  ],
  cost: ([accumulator, a, b], [c]) => ({
    flops: 2 * a.size * (b.shape[1] as number) + c.size,
    bytesRead: a.bytes + b.bytes + accumulator.bytes,
    bytesWritten: c.bytes,
  }),
  kernel: ([accumulator, a, b, offsets], [c]) => weightGradientCall(a, b, offsets, accumulator, c),
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

/**
 * accumulator + the weight gradient, which may take over the accumulator's memory: how gradients of several micro-batches are
 * summed.
 *
 * @param accumulator - [E, M, N], float; the result has its dtype
 * @param a - as for {@link groupedMatmulWeightGradient}
 * @param b - as for {@link groupedMatmulWeightGradient}
 * @param offsets - as for {@link groupedMatmul}
 * @returns [E, M, N]
 * @throws HadalError HADAL_ERR_SHAPE, HADAL_ERR_DTYPE
 */
export function groupedMatmulWeightGradientAccumulate(accumulator: Value, a: Value, b: Value, offsets: Value): Value {
  return weightGradientAccumulateOp.apply([accumulator, a, b, offsets], {})[0];
}
