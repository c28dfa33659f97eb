// Matrix product, op(a)_MK · op(b)_KN → MN, op(x) being x or its transpose; leading dims are a batch.
// A two-dimensional b is shared by all leading dims of a, which then count as rows of one product.
import { type DType, isFloat } from '../core/dtype.js';
import { HadalError } from '../core/errors.js';
import { sameShape, sizeOf } from '../core/shape.js';
import type { Node, Value } from '../graph/graph.js';
import type { KernelCall, OpDefinition, TypeSpec } from '../graph/op.js';
import { defineOp, expectDType, expectShape } from './define-op.js';
import { reshape } from './shape.js';

type MatmulAttrs = { transposeA: boolean; transposeB: boolean; outputDType: DType };

/** How to take the factors, and the dtype of the product. */
export interface MatmulOptions {
  /** a is [..., K, M]. */
  transposeA?: boolean;
  /** b is [..., N, K], as the weight of a linear layer. */
  transposeB?: boolean;
  /** Default: the dtype of a (of the accumulator, where there is one). */
  outputDType?: DType;
}

const outer = (x: Value) => x.shape.slice(0, -2);
const isShared = (a: Value, b: Value) => a.shape.length > 2 && b.shape.length === 2;

/** Sizes of the product; rows of a shared b's batch are folded into m. */
function sizes(a: Value, b: Value, { transposeA, transposeB }: MatmulAttrs) {
  const [rows, columns] = a.shape.slice(-2) as [number, number];
  const [high, wide] = b.shape.slice(-2) as [number, number];
  const [m, k] = transposeA ? [columns, rows] : [rows, columns];
  const n = transposeB ? high : wide;
  return isShared(a, b) ? { batch: 1, m: sizeOf(outer(a)) * m, n, k } : { batch: sizeOf(outer(a)), m, n, k };
}

function inferMatmul(op: string, a: Value, b: Value, attrs: MatmulAttrs): TypeSpec {
  const { transposeA, transposeB, outputDType } = attrs;
  expectDType(op, 'a', a, 'float');
  expectDType(op, 'b', b, 'float');
  const batched = sameShape(outer(a), outer(b)) || (isShared(a, b) && !transposeA);
  if (a.shape.length < 2 || b.shape.length < 2 || !batched) {
    const flags = transposeA ? ', transposeA' : '';
    throw new HadalError(
      'HADAL_ERR_SHAPE',
      `[${op}] expected matrices with equal leading dims, or b of two dims shared by all of an untransposed a, got a ${a.type}${flags} and b ${b.type}`,
    );
  }
  const { m, n, k } = sizes(a, b, attrs);
  expectShape(op, 'b', b, [...outer(b), ...(transposeB ? [null, k] : [k, null])]);
  const rows = transposeA ? m : (a.shape.at(-2) as number);
  const isRowsFirst = a.shape.length > 2 || !transposeA;
  return { shape: [...outer(a), rows, n], dtype: outputDType, extent: isRowsFirst ? a.extent : null };
}

/** Which dim of the product the factors' bounded extent limits, as native/ops/matmul.h numbers them. */
function extentOf(a: Value, b: Value, { transposeA, transposeB }: MatmulAttrs) {
  if (a.shape.length > 2) {
    const unit = sizeOf(a.shape.slice(1, -2)) * (isShared(a, b) ? (a.shape.at(-2) as number) : 1);
    return { extent: a.extent, dim: isShared(a, b) ? 1 : 0, unit };
  }
  if (a.extent) return { extent: a.extent, dim: transposeA ? 2 : 1, unit: 1 };
  return { extent: transposeB ? null : b.extent, dim: 2, unit: 1 };
}

/** An addend of one dim is one row for all rows of the product. */
const isRow = (addend: Value) => addend.shape.length === 1;

function call(a: Value, b: Value, addend: Value | null, c: Value, attrs: MatmulAttrs): KernelCall {
  const { extent, dim, unit } = extentOf(a, b, attrs);
  return {
    kernel: 'matmul',
    params: {
      ...sizes(a, b, attrs),
      transposeA: Number(attrs.transposeA),
      transposeB: Number(attrs.transposeB),
      addendIsRow: Number(addend !== null && isRow(addend)),
      extentDim: dim,
      extentUnit: unit,
      dtypeA: a.dtype,
      dtypeB: b.dtype,
      dtypeC: c.dtype,
      dtypeAddend: addend?.dtype ?? c.dtype,
    },
    buffers: [a, b, addend, extent, c],
  };
}

const flopsOf = (a: Value, b: Value, attrs: MatmulAttrs) => {
  const { batch, m, n, k } = sizes(a, b, attrs);
  return 2 * batch * m * n * k;
};

/** Gradients by a and b: products again, with other transposes. */
function pullBack(
  a: Value,
  b: Value,
  dy: Value,
  attrs: MatmulAttrs,
  needs: readonly [boolean, boolean],
): [Value | null, Value | null] {
  if (isShared(a, b)) {
    const fold = (x: Value) => reshape(x, [-1, x.shape.at(-1) as number]);
    const da = needs[0] ? matmul(dy, b, { transposeB: !attrs.transposeB, outputDType: a.dtype }) : null;
    return [da, needs[1] ? pullBack(fold(a), b, fold(dy), attrs, [false, true])[1] : null];
  }
  const { transposeA, transposeB } = attrs;
  const da = () =>
    transposeA
      ? matmul(b, dy, { transposeA: transposeB, transposeB: true, outputDType: a.dtype })
      : matmul(dy, b, { transposeB: !transposeB, outputDType: a.dtype });
  const db = () =>
    transposeB
      ? matmul(dy, a, { transposeA: true, transposeB: transposeA, outputDType: b.dtype })
      : matmul(a, dy, { transposeA: !transposeA, outputDType: b.dtype });
  return [needs[0] ? da() : null, needs[1] ? db() : null];
}

const retype = (attrs: MatmulAttrs, _index: number, outputDType: DType) =>
  isFloat(outputDType) ? { ...attrs, outputDType } : null;

const matmulOp = defineOp<MatmulAttrs, [a: Value, b: Value], [c: Value]>({
  name: 'matmul',
  narrow: [0, 1],
  retype,
  plus(addend, [a, b], attrs, outputDType) {
    const { shape } = inferMatmul('matmul', a, b, attrs);
    const fits = sameShape(addend.shape, isRow(addend) ? shape.slice(-1) : shape);
    return fits && isFloat(addend.dtype)
      ? matmulAccumulateOp.apply([addend, a, b], { ...attrs, outputDType })[0]
      : null;
  },
  // x·(a·b) = (x·a)·b, x·(a·b)ᵀ = (x·bᵀ)·aᵀ
  ofProduct(index, a, b, [x], { transposeA, transposeB, outputDType }) {
    if (index !== 1 || transposeA) return null;
    const [first, second] = transposeB ? [b, a] : [a, b];
    return [matmul(matmul(x, first, { transposeB }), second, { transposeB, outputDType })];
  },
  infer: ([a, b], attrs) => [inferMatmul('matmul', a, b, attrs)],
  vjp: ({ inputs: [a, b], gradients: [dy], attrs, needs }) => (dy ? pullBack(a, b, dy, attrs, needs) : [null, null]),
  cost: ([a, b], [c], attrs) => ({ flops: flopsOf(a, b, attrs), bytesRead: a.bytes + b.bytes, bytesWritten: c.bytes }),
  kernel: ([a, b], [c], attrs) => call(a, b, null, c, attrs),
});

const matmulAccumulateOp = defineOp<MatmulAttrs, [addend: Value, a: Value, b: Value], [c: Value]>({
  name: 'matmul-accumulate',
  narrow: [1, 2],
  retype,
  inPlace: [[0, 0]],
  infer([addend, a, b], attrs) {
    const type = inferMatmul('matmul-accumulate', a, b, attrs);
    expectShape('matmul-accumulate', 'accumulator', addend, isRow(addend) ? type.shape.slice(-1) : type.shape);
    expectDType('matmul-accumulate', 'accumulator', addend, 'float');
    return [type];
  },
  vjp({ inputs: [, a, b], gradients: [dy], attrs, needs: [, needsA, needsB] }) {
    return dy ? [dy, ...pullBack(a, b, dy, attrs, [needsA, needsB])] : [null, null, null];
  },
  cost: ([addend, a, b], [c], attrs) => ({
    flops: flopsOf(a, b, attrs) + c.size,
    bytesRead: a.bytes + b.bytes + addend.bytes,
    bytesWritten: c.bytes,
  }),
  kernel: ([addend, a, b], [c], attrs) => call(a, b, addend, c, attrs),
});

/** A product of rows with matrices, as {@link matmul} took it. */
export interface MatrixProduct extends Pick<MatmulAttrs, 'transposeB' | 'outputDType'> {
  /** [..., K], all leading dims together being `rows`; or [H, rows, K]. */
  a: Value;
  /** [K, N] or [H, K, N]; K and N swapped with `transposeB`. */
  b: Value;
  /** Rows that each matrix is multiplied with. */
  rows: number;
  n: number;
}

/** What a node multiplies, where it is a `matmul` of untransposed rows with one matrix, or one matrix each; else null. */
export function matrixProduct(node: Node): MatrixProduct | null {
  if (node.op !== (matmulOp as unknown as OpDefinition)) return null;
  const [a, b] = node.inputs as [Value, Value];
  const attrs = node.attrs as MatmulAttrs;
  if (attrs.transposeA || b.shape.length > 3) return null;
  const { m, n } = sizes(a, b, attrs);
  return { a, b, rows: m, n, transposeB: attrs.transposeB, outputDType: attrs.outputDType };
}

/**
 * Matrix product, accumulated in fp32 whatever the dtypes. Fast where a and b have one dtype; a mixture is served too.
 *
 * @param a - [..., M, K], float; [..., K, M] with `transposeA`
 * @param b - [..., K, N] with the leading dims of a, or [K, N] shared by all of them (then without `transposeA`), float;
 *   N and K swapped with `transposeB`
 * @returns [..., M, N]
 * @throws HadalError HADAL_ERR_SHAPE, HADAL_ERR_DTYPE
 */
export function matmul(a: Value, b: Value, options: MatmulOptions = {}): Value {
  const { transposeA = false, transposeB = false, outputDType = a.dtype } = options;
  return matmulOp.apply([a, b], { transposeA, transposeB, outputDType })[0];
}

/**
 * accumulator + the product, which may take over the accumulator's memory where their types agree: how gradients of several
 * micro-batches are summed, and how a bias or a residual is added as the product is written.
 *
 * @param accumulator - [..., M, N], or [N]: one row, added to every row; float
 * @param a - as for {@link matmul}
 * @param b - as for {@link matmul}
 * @param options - `outputDType` defaults to the accumulator's dtype
 * @returns [..., M, N]
 * @throws HadalError HADAL_ERR_SHAPE, HADAL_ERR_DTYPE
 */
export function matmulAccumulate(accumulator: Value, a: Value, b: Value, options: MatmulOptions = {}): Value {
  const { transposeA = false, transposeB = false, outputDType = accumulator.dtype } = options;
  return matmulAccumulateOp.apply([accumulator, a, b], { transposeA, transposeB, outputDType })[0];
}
