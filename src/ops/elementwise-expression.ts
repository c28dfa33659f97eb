// How a postfix expression over tensors becomes one call of the `elementwise` kernel.
import { HadalError, invariant } from '../core/errors.js';
import { type Shape, sizeOf, stridesOf } from '../core/shape.js';
import type { Value } from '../graph/graph.js';
import type { KernelCall } from '../graph/op.js';

/** Numbers shared with native/ops/elementwise.h. */
export const opcodes = {
  add: 2,
  subtract: 3,
  multiply: 4,
  divide: 5,
  maximum: 6,
  minimum: 7,
  equal: 8,
  less: 9,
  lessEqual: 10,
  negate: 16,
  reciprocal: 17,
  exp: 18,
  log: 19,
  sqrt: 20,
  rsqrt: 21,
  square: 22,
  abs: 23,
  sign: 24,
  sigmoid: 25,
  tanh: 26,
  silu: 27,
  gelu: 28,
  erf: 29,
  relu: 30,
  sin: 31,
  cos: 32,
  floor: 33,
  isFinite: 34,
  log1p: 35,
  geluSlope: 37,
  where: 48,
} as const;

/** Limits of one expression, as in native/ops/elementwise.h. */
export const expressionLimits = { inputs: 8, rank: 6, codeBytes: 128, constants: 16, stack: 8 } as const;

/** One step of a postfix expression: push input n, push a number, or apply an opcode to the top of the stack. */
export type Step = { input: number } | { constant: number } | { op: number };

/** How an input is walked: strides per output dim, and where it begins, in elements. */
export interface Walk {
  strides: readonly number[];
  offset: number;
}

/** The number of a constant of one fp32 element, else null. Such constants become part of expressions. */
export function constantNumber(value: Value): number | null {
  const { op, attrs } = value.node;
  return op.name === 'constant' && value.size === 1 && attrs.data instanceof Float32Array
    ? (attrs.data[0] as number)
    : null;
}

/** Strides that broadcast `shape` to `target`. */
export function broadcastStrides(shape: Shape, target: Shape): number[] {
  const strides = stridesOf(shape);
  const missing = target.length - shape.length;
  return target.map((_, i) => (i < missing || shape[i - missing] === 1 ? 0 : (strides[i - missing] as number)));
}

/** Joins neighbouring dims that every walk passes through as if they were one; drops dims of size 1. */
function collapse(dims: Shape, walks: readonly Walk[]): { dims: number[]; strides: number[][] } {
  const kept: number[] = [];
  const strides: number[][] = walks.map(() => []);
  for (let d = 0; d < dims.length; d++) {
    const dim = dims[d] as number;
    if (dim === 1) continue;
    const joins = kept.length > 0 && walks.every((walk, n) => strides[n]?.at(-1) === (walk.strides[d] as number) * dim);
    if (joins) kept[kept.length - 1] = (kept.at(-1) as number) * dim;
    else kept.push(dim);
    for (const [n, walk] of walks.entries()) {
      const list = strides[n] as number[];
      if (joins) list[list.length - 1] = walk.strides[d] as number;
      else list.push(walk.strides[d] as number);
    }
  }
  if (kept.length === 0) return { dims: [1], strides: walks.map(() => [0]) };
  return { dims: kept, strides };
}

/**
 * The kernel call that computes `out` from an expression over `inputs`.
 *
 * @param walks - how each input is walked; default: broadcast to the output's shape
 * @throws HadalError HADAL_ERR_SHAPE where the shapes need more than 6 dims
 */
export function elementwiseCall(
  out: Value,
  inputs: readonly Value[],
  steps: readonly Step[],
  walks?: Walk[],
): KernelCall {
  const { inputs: maxInputs, rank: maxRank } = expressionLimits;
  const all = walks ?? inputs.map((input) => ({ strides: broadcastStrides(input.shape, out.shape), offset: 0 }));
  const tensors: number[] = [];
  const constants: number[] = [];
  const code: number[] = [];
  const position = (list: number[], item: number) => (list.includes(item) ? list.indexOf(item) : list.push(item) - 1);
  for (const step of steps) {
    if ('op' in step) {
      code.push(step.op);
      continue;
    }
    const number = 'constant' in step ? step.constant : constantNumber(inputs[step.input] as Value);
    if (number !== null) code.push(1, position(constants, number));
    else code.push(0, position(tensors, (step as { input: number }).input));
  }
  invariant(
    tensors.length <= maxInputs &&
      code.length <= expressionLimits.codeBytes &&
      constants.length <= expressionLimits.constants,
    'an elementwise expression is too large for its kernel',
  );
  const used = tensors.map((n) => all[n] as Walk);
  const { dims, strides } = collapse(out.shape, used);
  if (dims.length > maxRank) {
    throw new HadalError('HADAL_ERR_SHAPE', `[elementwise] expected at most ${maxRank} separate dims, got ${out.type}`);
  }
  const padded = (list: readonly number[], length: number) => [
    ...list,
    ...new Array<number>(length - list.length).fill(0),
  ];
  const types = tensors.map((n) => (inputs[n] as Value).dtype);
  const typeFill = new Array<'fp32'>(maxInputs - types.length).fill('fp32');
  return {
    kernel: 'elementwise',
    params: {
      rank: dims.length,
      dims: padded(dims, maxRank),
      inputs: tensors.length,
      offsets: padded(
        used.map((walk) => walk.offset),
        maxInputs,
      ),
      strides: padded(
        strides.flatMap((list) => padded(list, maxRank)),
        maxInputs * maxRank,
      ),
      rowElements: out.shape.length > 0 ? sizeOf(out.shape.slice(1)) : 1,
      codeBytes: code.length,
      constants: padded(constants, expressionLimits.constants),
      inputTypes: [...types, ...typeFill],
      outputType: out.dtype,
      code: Uint8Array.from(padded(code, expressionLimits.codeBytes)),
    },
    buffers: [
      ...Array.from({ length: maxInputs }, (_, i) =>
        i < tensors.length ? (inputs[tensors[i] as number] as Value) : null,
      ),
      out.extent,
      out,
    ],
  };
}
