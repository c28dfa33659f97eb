// Tokens to the rows of their experts and back; formulas: native/ops/permute.h. A pair is a token and one of its K choices.
// T tokens, K choices, E experts, R = T·K rows, D features.
import type { Value } from '../graph/graph.js';
import { defineOp, expectDType, expectRank, expectShape } from './define-op.js';

type NoAttrs = Record<never, never>;

/** Which row of the experts' batches each pair has. All int32. */
export interface ExpertOrder {
  /** [E + 1]: the rows of expert e are offsets[e] … offsets[e + 1] − 1. */
  offsets: Value;
  /** [T, K]: row of each pair, −1 where it goes to no expert. */
  position: Value;
  /** [R]: pair t·K + k of each row; 0 beyond the rows in use. */
  source: Value;
  /** [1]: rows in use. */
  rows: Value;
}

const expertOrderOp = defineOp<
  { experts: number },
  [experts: Value],
  [offsets: Value, position: Value, source: Value, rows: Value]
>({
  name: 'expert-order',
  infer([experts], attrs) {
    expectDType('expert-order', 'experts', experts, 'int32');
    return [
      { shape: [attrs.experts + 1], dtype: 'int32' },
      { shape: experts.shape, dtype: 'int32' },
      { shape: [experts.size], dtype: 'int32' },
      { shape: [1], dtype: 'int32' },
    ];
  },
  vjp: () => [null],
  kernel: ([experts], outputs, attrs) => ({
    kernel: 'expert-order',
    params: { pairs: experts.size, experts: attrs.experts },
    buffers: [experts, ...outputs],
  }),
});

/** The inputs that all three ops end with. */
type Places = [position: Value, source: Value, rows: Value];

const choices = (position: Value) => position.shape.at(-1) as number;

/** `position` is [T, K] or [B, T, K]; the x of these ops is [T, D], tokens in the same order. */
const dims = (x: Value, position: Value) => ({
  tokens: x.shape[0] as number,
  topK: choices(position),
  dim: x.shape[1] as number,
  dtype: x.dtype,
});

function expectWeights(op: string, weights: Value | null, position: Value): void {
  if (!weights) return;
  expectDType(op, 'weights', weights, 'fp32');
  expectShape(op, 'weights', weights, position.shape);
}

const permuteOp = defineOp<NoAttrs, [x: Value, weights: Value | null, ...places: Places], [y: Value]>({
  name: 'permute',
  narrow: [0],
  infer([x, weights, position, , rows]) {
    expectDType('permute', 'x', x, 'float');
    expectShape('permute', 'x', x, [position.size / choices(position), x.shape[1] ?? null]);
    expectWeights('permute', weights, position);
    return [{ shape: [position.size, x.shape[1] as number], dtype: x.dtype, extent: rows }];
  },
  vjp({ inputs: [x, weights, ...places], gradients: [dy], needs }) {
    if (!dy) return [null, null, null, null, null];
    return [
      needs[0] ? unpermuteBy(dy, weights, places) : null,
      weights && needs[1] ? permuteDot(x, dy, places) : null,
      null,
      null,
      null,
    ];
  },
  cost: (_, [y]) => ({ flops: y.size, bytesRead: y.bytes, bytesWritten: y.bytes }),
  kernel: ([x, weights, position, source, rows], [y]) => ({
    kernel: 'permute',
    params: dims(x, position),
    buffers: [x, weights, source, rows, y],
  }),
});

const unpermuteOp = defineOp<NoAttrs, [y: Value, weights: Value | null, ...places: Places], [x: Value]>({
  name: 'unpermute',
  narrow: [0],
  infer([y, weights, position]) {
    expectDType('unpermute', 'y', y, 'float');
    expectShape('unpermute', 'y', y, [position.size, y.shape[1] ?? null]);
    expectWeights('unpermute', weights, position);
    return [{ shape: [position.size / choices(position), y.shape[1] as number], dtype: y.dtype }];
  },
  vjp({ inputs: [y, weights, ...places], gradients: [dx], needs }) {
    if (!dx) return [null, null, null, null, null];
    if (weights && needs[0] && needs[1]) {
      return [...unpermuteBackwardOp.apply([dx, y, weights, ...places], {}), null, null, null];
    }
    return [
      needs[0] ? permuteBy(dx, weights, places) : null,
      weights && needs[1] ? permuteDot(dx, y, places) : null,
      null,
      null,
      null,
    ];
  },
  cost: ([y], [x]) => ({ flops: 2 * y.size, bytesRead: y.bytes, bytesWritten: x.bytes }),
  kernel: ([y, weights, position], [x]) => ({
    kernel: 'unpermute',
    params: dims(x, position),
    buffers: [y, weights, position, x],
  }),
});

/** Both gradients of a weighted unpermute, which read the same rows. */
const unpermuteBackwardOp = defineOp<
  NoAttrs,
  [dx: Value, y: Value, weights: Value, ...places: Places],
  [dy: Value, dweights: Value]
>({
  name: 'unpermute-backward',
  inPlace: [[0, 1]],
  infer: ([, y, weights, , , rows]) => [
    { shape: y.shape, dtype: y.dtype, extent: rows },
    { shape: weights.shape, dtype: 'fp32' },
  ],
  lower: ([dx, y, weights, ...places]) => [permuteBy(dx, weights, places), permuteDot(dx, y, places)],
  cost: ([dx, y], [dy, dweights]) => ({
    flops: 3 * y.size,
    bytesRead: dx.bytes + y.bytes,
    bytesWritten: dy.bytes + dweights.bytes,
  }),
  kernel: ([dx, y, weights, position, source, rows], outputs) => ({
    kernel: 'unpermute-backward',
    params: dims(dx, position),
    buffers: [dx, y, weights, source, rows, ...outputs],
  }),
});

/** The gradient by the weights of the other two: products of each token with the rows of its pairs. */
const permuteDotOp = defineOp<NoAttrs, [x: Value, y: Value, ...places: Places], [g: Value]>({
  name: 'permute-dot',
  infer: ([, , position]) => [{ shape: position.shape, dtype: 'fp32' }],
  vjp({ inputs: [x, y, ...places], gradients: [dg], needs }) {
    if (!dg) return [null, null, null, null, null];
    return [needs[0] ? unpermuteBy(y, dg, places) : null, needs[1] ? permuteBy(x, dg, places) : null, null, null, null];
  },
  cost: ([x, y], [g]) => ({ flops: 2 * y.size, bytesRead: x.bytes + y.bytes, bytesWritten: g.bytes }),
  kernel: ([x, y, position, source, rows], [g]) => ({
    kernel: 'permute-dot',
    params: dims(x, position),
    buffers: [x, y, source, rows, g],
  }),
});

function permuteBy(x: Value, weights: Value | null, places: Places): Value {
  return permuteOp.apply([x, weights, ...places], {})[0];
}

function unpermuteBy(y: Value, weights: Value | null, places: Places): Value {
  return unpermuteOp.apply([y, weights, ...places], {})[0];
}

function permuteDot(x: Value, y: Value, places: Places): Value {
  return permuteDotOp.apply([x, y, ...places], {})[0];
}

/**
 * Sorts the pairs by expert, stably: within an expert, tokens keep their order. No gradient.
 *
 * @param experts - [..., K], int32: expert of each pair, −1 for none
 * @throws HadalError HADAL_ERR_SHAPE, HADAL_ERR_DTYPE
 */
export function expertOrder(experts: Value, options: { experts: number }): ExpertOrder {
  const [offsets, position, source, rows] = expertOrderOp.apply([experts], options);
  return { offsets, position, source, rows };
}

/**
 * Each token once for every expert that takes it, in the order of the experts.
 *
 * @param x - [T, D], float
 * @returns [R, D], dtype of x, extent `order.rows`; rows beyond are not written
 * @throws HadalError HADAL_ERR_SHAPE, HADAL_ERR_DTYPE
 */
export function permute(x: Value, order: ExpertOrder): Value {
  expectRank('permute', 'x', x, 2);
  return permuteBy(x, null, [order.position, order.source, order.rows]);
}

/**
 * Brings the experts' rows back: out[t] = Σ_k weights[t, k] · y[position[t, k]], summed in fp32.
 *
 * @param y - [R, D], float
 * @param weights - [T, K] (the shape of `order.position`), fp32; null: 1
 * @returns [T, D], dtype of y
 * @throws HadalError HADAL_ERR_SHAPE, HADAL_ERR_DTYPE
 */
export function unpermute(y: Value, order: ExpertOrder, weights: Value | null): Value {
  expectRank('unpermute', 'y', y, 2);
  return unpermuteBy(y, weights, [order.position, order.source, order.rows]);
}
