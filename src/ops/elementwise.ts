// Elementwise ops: rows of one table. A row says the opcode of native/ops/elementwise.h, and the gradient by each operand.
// Operands broadcast as in NumPy. A new elementwise op is a row here and a case in native/cpu/elementwise.cpp.
import { type DType, isFloat } from '../core/dtype.js';
import { HadalError } from '../core/errors.js';
import type { Shape } from '../core/shape.js';
import { graphOf, type Node, type Value } from '../graph/graph.js';
import type { OpDefinition, TypeSpec } from '../graph/op.js';
import { defineOp, type Op } from './define-op.js';
import { constantNumber, elementwiseCall, opcodes } from './elementwise-expression.js';
import { scalar } from './sources.js';

type Gradient = (context: { inputs: readonly Value[]; y: Value; dy: Value }) => Value;
type Row = readonly Gradient[] | 'zero';

/** Gradient by each operand (autodiff sums it over broadcast dims); 'zero' where it is zero wherever it exists. */
const rows: Record<ElementwiseName, Row> = {
  add: [({ dy }) => dy, ({ dy }) => dy],
  subtract: [({ dy }) => dy, ({ dy }) => negate(dy)],
  multiply: [({ inputs: [, b], dy }) => multiply(dy, b as Value), ({ inputs: [a], dy }) => multiply(dy, a as Value)],
  divide: [
    ({ inputs: [, b], dy }) => divide(dy, b as Value),
    ({ inputs: [, b], y, dy }) => negate(divide(multiply(dy, y), b as Value)),
  ],
  maximum: [
    ({ inputs: [a, b], dy }) => multiply(dy, lessEqual(b as Value, a as Value)),
    ({ inputs: [a, b], dy }) => multiply(dy, less(a as Value, b as Value)),
  ],
  minimum: [
    ({ inputs: [a, b], dy }) => multiply(dy, lessEqual(a as Value, b as Value)),
    ({ inputs: [a, b], dy }) => multiply(dy, less(b as Value, a as Value)),
  ],
  equal: 'zero',
  less: 'zero',
  lessEqual: 'zero',
  negate: [({ dy }) => negate(dy)],
  reciprocal: [({ y, dy }) => negate(multiply(dy, square(y)))],
  exp: [({ y, dy }) => multiply(dy, y)],
  log: [({ inputs: [x], dy }) => divide(dy, x as Value)],
  log1p: [({ inputs: [x], dy }) => divide(dy, add(x as Value, 1))],
  sqrt: [({ y, dy }) => divide(multiply(dy, 0.5), y)],
  rsqrt: [({ y, dy }) => multiply(multiply(dy, -0.5), multiply(y, square(y)))],
  square: [({ inputs: [x], dy }) => multiply(multiply(dy, 2), x as Value)],
  abs: [({ inputs: [x], dy }) => multiply(dy, sign(x as Value))],
  sign: 'zero',
  sigmoid: [({ y, dy }) => multiply(dy, multiply(y, subtract(1, y)))],
  tanh: [({ y, dy }) => multiply(dy, subtract(1, square(y)))],
  silu: [
    ({ inputs: [x], y, dy }) => {
      const s = sigmoid(x as Value);
      return multiply(dy, add(s, multiply(y, subtract(1, s))));
    },
  ],
  gelu: [({ inputs: [x], dy }) => multiply(dy, geluSlope(x as Value))],
  // u = c · (x + a · x³), t = tanh(u): (1 − t²) · (u′ + x / 2 · (u″ − 2 · t · u′²))
  geluSlope: [
    ({ inputs: [x], dy }) => {
      const v = x as Value;
      const t = tanh(multiply(add(v, multiply(multiply(v, square(v)), geluCubic)), geluScale));
      const first = multiply(add(multiply(square(v), 3 * geluCubic), 1), geluScale);
      const second = multiply(v, 6 * geluCubic * geluScale);
      const inner = add(first, multiply(multiply(v, 0.5), subtract(second, multiply(multiply(t, 2), square(first)))));
      return multiply(dy, multiply(subtract(1, square(t)), inner));
    },
  ],
  erf: [({ inputs: [x], dy }) => multiply(dy, multiply(exp(negate(square(x as Value))), 2 / Math.sqrt(Math.PI)))],
  relu: [({ inputs: [x], dy }) => multiply(dy, less(0, x as Value))],
  sin: [({ inputs: [x], dy }) => multiply(dy, cos(x as Value))],
  cos: [({ inputs: [x], dy }) => negate(multiply(dy, sin(x as Value)))],
  floor: 'zero',
  isFinite: 'zero',
  where: [
    ({ dy }) => multiply(dy, 0),
    ({ inputs: [condition], dy }) => where(condition as Value, dy, 0),
    ({ inputs: [condition], dy }) => where(condition as Value, 0, dy),
  ],
};

const geluScale = Math.sqrt(2 / Math.PI);
const geluCubic = 0.044715;

/** Name of an elementwise op. */
export type ElementwiseName = keyof typeof opcodes;

type NoAttrs = Record<never, never>;

/** Shape that operands broadcast to. @throws HadalError HADAL_ERR_SHAPE */
export function broadcastShape(op: string, shapes: readonly Shape[]): Shape {
  const rank = Math.max(...shapes.map((shape) => shape.length));
  return Array.from({ length: rank }, (_, i) => {
    const dims = shapes.map((shape) => shape[shape.length - rank + i] ?? 1).filter((dim) => dim !== 1);
    if (dims.some((dim) => dim !== dims[0])) {
      const list = shapes.map((shape) => `[${shape.join(', ')}]`).join(' and ');
      throw new HadalError('HADAL_ERR_SHAPE', `[${op}] expected shapes that broadcast, got ${list}`);
    }
    return dims[0] ?? 1;
  });
}

/** fp32 wins over bf16 and fp16, floats over int32; numbers given as constants follow the tensors. */
function resultType(op: string, inputs: readonly Value[]): DType {
  const tensors = inputs.filter((input) => constantNumber(input) === null);
  const floats = (tensors.length > 0 ? tensors : inputs).map((input) => input.dtype).filter(isFloat);
  if (floats.length === 0) return op in comparisons ? 'fp32' : (tensors[0]?.dtype ?? 'fp32');
  const first = floats[0] as DType;
  return op in comparisons || floats.some((dtype) => dtype !== first) ? 'fp32' : first;
}

const comparisons = { equal: true, less: true, lessEqual: true, isFinite: true };

function inferElementwise(op: string, inputs: readonly Value[]): TypeSpec[] {
  const shape = broadcastShape(
    op,
    inputs.map((input) => input.shape),
  );
  const typed = op === 'where' ? inputs.slice(1) : inputs;
  const extent = extentOf(shape, inputs);
  return [{ shape, dtype: resultType(op, typed), extent }];
}

/** Extent of a result: that of the first operand whose dim 0 is the result's. */
export function extentOf(shape: Shape, inputs: readonly Value[]): Value | null {
  const isBounded = (x: Value) => x.extent !== null && x.shape.length === shape.length && x.shape[0] === shape[0];
  return inputs.find(isBounded)?.extent ?? null;
}

function defineRow(name: ElementwiseName, row: Row): Op<NoAttrs, readonly Value[], [Value]> {
  return defineOp<NoAttrs, readonly Value[], [Value]>({
    name,
    isElementwise: true,
    narrow: 'follow',
    inPlace: [[0, 0]],
    infer: (inputs) => inferElementwise(name, inputs),
    vjp({ inputs, outputs: [y], gradients: [dy], needs }) {
      if (row === 'zero' || !dy) return inputs.map(() => null);
      return inputs.map((_, i) => (needs[i] ? (row[i] as Gradient)({ inputs, y, dy }) : null));
    },
    cost: (inputs, [y]) => ({
      flops: y.size,
      bytesRead: inputs.reduce((bytes, input) => bytes + input.bytes, 0),
      bytesWritten: y.bytes,
    }),
    kernel: (inputs, [y]) =>
      elementwiseCall(y, inputs, [...inputs.flatMap((_, i) => [{ input: i }]), { op: opcodes[name] }]),
  });
}

const ops = Object.fromEntries(
  Object.entries(rows).map(([name, row]) => [name, defineRow(name as ElementwiseName, row)]),
) as Record<ElementwiseName, Op<NoAttrs, readonly Value[], [Value]>>;

/** A tensor, or a number that broadcasts. */
export type Operand = Value | number;

function apply(name: ElementwiseName, operands: readonly Operand[]): Value {
  const graph = graphOf(operands.map((operand) => (typeof operand === 'number' ? null : operand)));
  const inputs = operands.map((operand) => (typeof operand === 'number' ? scalar(graph, operand) : operand));
  return ops[name].apply(inputs, {})[0];
}

const unary = (name: ElementwiseName) => (x: Value) => apply(name, [x]);
const binary = (name: ElementwiseName) => (a: Operand, b: Operand) => apply(name, [a, b]);

/** a + b, broadcasting. */
export const add = binary('add');
/** a − b, broadcasting. */
export const subtract = binary('subtract');
/** a · b, broadcasting. */
export const multiply = binary('multiply');
/** a / b, broadcasting. */
export const divide = binary('divide');
/** The greater one; its gradient goes to a where both are equal. */
export const maximum = binary('maximum');
/** The lesser one; its gradient goes to a where both are equal. */
export const minimum = binary('minimum');
/** 1 where a = b, else 0, fp32. */
export const equal = binary('equal');
/** 1 where a < b, else 0, fp32. */
export const less = binary('less');
/** 1 where a ≤ b, else 0, fp32. */
export const lessEqual = binary('lessEqual');
/** 1 where a ≥ b, else 0, fp32. */
export const greaterEqual = (a: Operand, b: Operand) => lessEqual(b, a);
/** −x. */
export const negate = unary('negate');
/** 1 / x. */
export const reciprocal = unary('reciprocal');
/** e^x. */
export const exp = unary('exp');
/** Natural logarithm. */
export const log = unary('log');
/** ln(1 + x). */
export const log1p = unary('log1p');
/** √x. */
export const sqrt = unary('sqrt');
/** 1 / √x. */
export const rsqrt = unary('rsqrt');
/** x². */
export const square = unary('square');
/** |x|. */
export const abs = unary('abs');
/** −1, 0 or 1. */
export const sign = unary('sign');
/** 1 / (1 + e^−x). */
export const sigmoid = unary('sigmoid');
/** Hyperbolic tangent. */
export const tanh = unary('tanh');
/** x · sigmoid(x). Elfwing et al. 2017, arXiv:1702.03118. */
export const silu = unary('silu');
/** GELU, the tanh form. Hendrycks & Gimpel 2016, arXiv:1606.08415. */
export const gelu = unary('gelu');
/** Derivative of {@link gelu}. */
export const geluSlope = unary('geluSlope');
/** Error function. */
export const erf = unary('erf');
/** GELU, the exact form: x · Φ(x). */
export const geluErf = (x: Value) => multiply(multiply(x, 0.5), add(erf(multiply(x, Math.SQRT1_2)), 1));
/** max(x, 0). */
export const relu = unary('relu');
/** Sine. */
export const sin = unary('sin');
/** Cosine. */
export const cos = unary('cos');
/** The next whole number below. */
export const floor = unary('floor');
/** 1 where x is a finite number, else 0, fp32. */
export const finite = unary('isFinite');
/** a where condition ≠ 0, else b. */
export const where = (condition: Value, a: Operand, b: Operand) => apply('where', [condition, a, b]);

const castOp = defineOp<{ dtype: DType }, [x: Value], [Value]>({
  name: 'cast',
  isElementwise: true,
  infer: ([x], { dtype }) => [{ shape: x.shape, dtype, extent: x.extent }],
  vjp: ({ gradients: [dy] }) => [dy],
  kernel: ([x], [y]) => elementwiseCall(y, [x], [{ input: 0 }]),
});

/** The same numbers in another dtype; float to int32 cuts the fraction off. */
export function cast(x: Value, dtype: DType): Value {
  return x.dtype === dtype ? x : castOp.apply([x], { dtype })[0];
}

/** The two values that a node adds; null where it is no sum of two. */
export function addendsOf({ op, inputs }: Node): readonly [Value, Value] | null {
  return op === (ops.add as unknown as OpDefinition) ? (inputs as [Value, Value]) : null;
}

/** What a cast makes of its input; null for other nodes. */
export function castDType({ op, attrs }: Node): DType | null {
  return op === (castOp as unknown as OpDefinition) ? (attrs as { dtype: DType }).dtype : null;
}

const stopGradientOp = defineOp<NoAttrs, [x: Value], [Value]>({
  name: 'stop-gradient',
  narrow: 'follow',
  isView: true,
  infer: ([x]) => [{ shape: x.shape, dtype: x.dtype, extent: x.extent }],
  vjp: () => [null],
});

/** x, but no gradient flows to it. */
export function stopGradient(x: Value): Value {
  return stopGradientOp.apply([x], {})[0];
}

/** The elementwise op of a node, if it is one that expressions can be fused of. */
export function elementwiseName(op: OpDefinition): ElementwiseName | 'cast' | null {
  return op.name === 'cast' || Object.hasOwn(rows, op.name) ? (op.name as ElementwiseName | 'cast') : null;
}
