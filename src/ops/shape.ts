// Ops that move numbers without changing them.
import { bytesOf, type DType } from '../core/dtype.js';
import { HadalError } from '../core/errors.js';
import { formatShape, type Shape, sameShape, sizeOf, stridesOf } from '../core/shape.js';
import type { Node, Value } from '../graph/graph.js';
import type { OpDefinition } from '../graph/op.js';
import { defineOp } from './define-op.js';
import { elementwiseCall } from './elementwise-expression.js';

const reshapeOp = defineOp<{ shape: Shape }, [x: Value], [Value]>({
  name: 'reshape',
  narrow: 'follow',
  isView: true,
  infer: ([x], { shape }) => [{ shape, dtype: x.dtype, extent: shape[0] === x.shape[0] ? x.extent : null }],
  vjp: ({ inputs: [x], gradients: [dy] }) => [dy && reshape(dy, x.shape)],
});

/** The same numbers under another shape of equal size; −1 stands for what is left. */
export function reshape(x: Value, shape: Shape): Value {
  const known = shape.reduce((product, dim) => (dim === -1 ? product : product * dim), 1);
  const whole = shape.map((dim) => (dim === -1 ? x.size / known : dim));
  if (sizeOf(whole) !== x.size || whole.some((dim) => !Number.isInteger(dim))) {
    throw new HadalError(
      'HADAL_ERR_SHAPE',
      `[reshape] expected a shape of ${x.size} elements, got ${formatShape(shape)}`,
    );
  }
  return sameShape(whole, x.shape) ? x : reshapeOp.apply([x], { shape: whole })[0];
}

const boundOp = defineOp<Record<never, never>, [x: Value, extent: Value], [Value]>({
  name: 'bound',
  narrow: 'follow',
  isView: true,
  infer: ([x, extent]) => [{ shape: x.shape, dtype: x.dtype, extent }],
  vjp: ({ gradients: [dy] }) => [dy, null],
});

/** x, of which only the first `extent` (int32 [1]) entries of dim 0 are in use. */
export function bound(x: Value, extent: Value): Value {
  return x.extent === extent ? x : boundOp.apply([x, extent], {})[0];
}

const transposeOp = defineOp<{ permutation: readonly number[] }, [x: Value], [Value]>({
  name: 'transpose',
  narrow: 'follow',
  infer: ([x], { permutation }) => [{ shape: permutation.map((axis) => x.shape[axis] as number), dtype: x.dtype }],
  vjp: ({ gradients: [dy], attrs: { permutation } }) => [
    dy &&
      transpose(
        dy,
        permutation.map((_, i) => permutation.indexOf(i)),
      ),
  ],
  kernel: ([x], [y], { permutation }) => {
    const strides = stridesOf(x.shape);
    const walk = { strides: permutation.map((axis) => strides[axis] as number), offset: 0 };
    return elementwiseCall(y, [x], [{ input: 0 }], [walk]);
  },
});

/** Dims in another order: dim i of the result is dim permutation[i] of x. */
export function transpose(x: Value, permutation: readonly number[]): Value {
  const sorted = [...permutation].sort((a, b) => a - b);
  if (sorted.length !== x.shape.length || sorted.some((axis, i) => axis !== i)) {
    throw new HadalError(
      'HADAL_ERR_SHAPE',
      `[transpose] expected an order of the dims of ${x.type}, got [${permutation.join(', ')}]`,
    );
  }
  // Dims of size 1 change places without a number moving.
  const moving = permutation.filter((axis) => x.shape[axis] !== 1);
  if (moving.every((axis, i) => i === 0 || axis > (moving[i - 1] as number))) {
    return reshape(
      x,
      permutation.map((axis) => x.shape[axis] as number),
    );
  }
  return transposeOp.apply([x], { permutation })[0];
}

const broadcastOp = defineOp<{ shape: Shape; dtype: DType }, [x: Value], [Value]>({
  name: 'broadcast',
  narrow: 'follow',
  retype: (attrs, _, dtype) => ({ ...attrs, dtype }),
  infer: (_, { shape, dtype }) => [{ shape, dtype }],
  vjp: ({ gradients: [dy] }) => [dy], // autodiff sums it to x's shape
  kernel: ([x], [y]) => elementwiseCall(y, [x], [{ input: 0 }]),
});

/** x repeated along new dims and dims of size 1, as NumPy broadcasts. */
export function broadcastTo(x: Value, shape: Shape, dtype: DType = x.dtype): Value {
  const missing = shape.length - x.shape.length;
  if (missing < 0 || x.shape.some((dim, i) => dim !== 1 && dim !== shape[i + missing])) {
    throw new HadalError(
      'HADAL_ERR_SHAPE',
      `[broadcast] expected a shape that ${x.type} broadcasts to, got ${formatShape(shape)}`,
    );
  }
  return sameShape(x.shape, shape) && x.dtype === dtype ? x : broadcastOp.apply([x], { shape, dtype })[0];
}

type SliceAttrs = { axis: number; start: number; end: number };

const sliceOp = defineOp<SliceAttrs, [x: Value], [Value]>({
  name: 'slice',
  narrow: 'follow',
  infer: ([x], { axis, start, end }) => [
    {
      shape: x.shape.map((dim, i) => (i === axis ? end - start : dim)),
      dtype: x.dtype,
      extent: axis > 0 ? x.extent : null,
    },
  ],
  vjp: ({ inputs: [x], gradients: [dy], attrs: { axis, start } }) => [
    dy && unsliceOp.apply([dy], { axis, start, size: x.shape[axis] as number })[0],
  ],
  kernel: ([x], [y], { axis, start }) => {
    const strides = stridesOf(x.shape);
    return elementwiseCall(y, [x], [{ input: 0 }], [{ strides, offset: start * (strides[axis] as number) }]);
  },
});

/** Entries [start, end) along one dim. */
export function slice(x: Value, axis: number, start: number, end: number): Value {
  const size = x.shape[axis];
  if (size === undefined || start < 0 || end > size || start > end) {
    throw new HadalError(
      'HADAL_ERR_SHAPE',
      `[slice] expected a range within dim ${axis} of ${x.type}, got [${start}, ${end})`,
    );
  }
  return start === 0 && end === size ? x : sliceOp.apply([x], { axis, start, end })[0];
}

/** Zeros of the whole size with x at `start`: the gradient of a slice. */
const unsliceOp = defineOp<{ axis: number; start: number; size: number }, [x: Value], [Value]>({
  name: 'unslice',
  infer: ([x], { axis, size }) => [
    { shape: x.shape.map((dim, i) => (i === axis ? size : dim)), dtype: x.dtype, extent: axis > 0 ? x.extent : null },
  ],
  vjp: ({ inputs: [x], gradients: [dy], attrs: { axis, start } }) => [
    dy && slice(dy, axis, start, start + (x.shape[axis] as number)),
  ],
  kernel: ([x], [y], { axis, start, size }) => {
    const entry = bytesOf(x.dtype, sizeOf(x.shape.slice(axis + 1)));
    return {
      kernel: 'unslice',
      params: {
        outer: sizeOf(x.shape.slice(0, axis)),
        inBytes: entry * (x.shape[axis] as number),
        startBytes: entry * start,
        outBytes: entry * size,
      },
      buffers: [x, y],
    };
  },
});

/** As in native/ops/shape.h. */
const concatInputs = 16;

const concatOp = defineOp<{ axis: number }, readonly Value[], [Value]>({
  name: 'concat',
  narrow: 'follow',
  infer: (inputs, { axis }) => {
    const first = inputs[0] as Value;
    const size = inputs.reduce((total, input) => total + (input.shape[axis] as number), 0);
    return [
      {
        shape: first.shape.map((dim, i) => (i === axis ? size : dim)),
        dtype: first.dtype,
        extent: axis > 0 ? first.extent : null,
      },
    ];
  },
  vjp({ inputs, gradients: [dy], attrs: { axis } }) {
    let start = 0;
    return inputs.map((input) => {
      const from = start;
      start += input.shape[axis] as number;
      return dy && slice(dy, axis, from, start);
    });
  },
  kernel: (inputs, [y], { axis }) => {
    const pad = concatInputs - inputs.length;
    const rowBytes = inputs.map((input) => bytesOf(input.dtype, sizeOf(input.shape.slice(axis))));
    return {
      kernel: 'concat',
      params: {
        outer: sizeOf(y.shape.slice(0, axis)),
        inputs: inputs.length,
        rowBytes: [...rowBytes, ...new Array<number>(pad).fill(0)],
      },
      buffers: [...inputs, ...new Array<null>(pad).fill(null), y],
    };
  },
});

/** Values one after the other along one dim; the other dims and the dtype are equal. */
export function concat(values: readonly Value[], axis: number): Value {
  const first = values[0];
  const fits = (value: Value) =>
    value.dtype === first?.dtype &&
    value.shape.length === first.shape.length &&
    value.shape.every((dim, i) => i === axis || dim === first.shape[i]);
  if (!first || axis < 0 || axis >= first.shape.length || !values.every(fits)) {
    throw new HadalError(
      'HADAL_ERR_SHAPE',
      `[concat] expected values alike but for dim ${axis}, got ${values.map((value) => value.type).join(' and ')}`,
    );
  }
  if (values.length === 1) return first;
  if (values.length <= concatInputs) return concatOp.apply(values, { axis })[0];
  return concat([concat(values.slice(0, concatInputs), axis), ...values.slice(concatInputs)], axis);
}

/** What a node cuts out, where it is a {@link slice}; else null. */
export function sliceOf(node: Node): (SliceAttrs & { x: Value }) | null {
  if (node.op !== (sliceOp as unknown as OpDefinition)) return null;
  return { x: node.inputs[0] as Value, ...(node.attrs as SliceAttrs) };
}

/** What a node puts among zeros, where it is the gradient of a {@link slice}; else null. */
export function unsliceOf(node: Node): { x: Value; axis: number; start: number; size: number } | null {
  if (node.op !== (unsliceOp as unknown as OpDefinition)) return null;
  return { x: node.inputs[0] as Value, ...(node.attrs as { axis: number; start: number; size: number }) };
}

/** What a node joins, where it is a {@link concat}; else null. */
export function concatOf(node: Node): { values: readonly Value[]; axis: number } | null {
  if (node.op !== (concatOp as unknown as OpDefinition)) return null;
  return { values: node.inputs as readonly Value[], axis: (node.attrs as { axis: number }).axis };
}

/** What a value repeats, where it is made by {@link broadcastTo} in its own dtype; else itself. */
export function repeated(value: Value): Value {
  const { op, inputs } = value.node;
  const x = inputs[0];
  return op === (broadcastOp as unknown as OpDefinition) && x?.dtype === value.dtype ? x : value;
}
