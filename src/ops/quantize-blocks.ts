// Numbers as 8-bit integers with a scale a block, in which gradients travel, and their sums. Formulas: native/ops/quantize-blocks.h.
// C numbers, N ranks
import { HadalError } from '../core/errors.js';
import { type Shape, sizeOf } from '../core/shape.js';
import type { Value } from '../graph/graph.js';
import { defineOp, expectDType, expectShape } from './define-op.js';
import { expectNumbers } from './tensor-list.js';

/** `quantizedBlock` of native/ops/quantize-blocks.h. */
const block = 256;
/** A block on the way: its numbers and a scale. */
const blockBytes = block + 2;

/** What compression left of a tensor, to be added to it. */
export interface Residual {
  /** fp32, shape of the gradient. */
  value: Value;
  /** fp32 [1], what it is multiplied with; where it is 0, it is not read. */
  scale: Value;
}

/** Bytes of a message of one rank's part of `count` numbers. */
export const partBytes = (count: number, ranks: number): number => Math.ceil(count / (ranks * block)) * blockBytes;

/** Checks a gradient, and what is added to it. @throws HadalError HADAL_ERR_SHAPE, HADAL_ERR_DTYPE */
export function expectGradient(op: string, grad: Value, residual: Value | null, scale: Value | null): void {
  expectDType(op, 'grad', grad, 'fp32');
  expectNumbers(op, ['scale'], [scale]);
  if (grad.extent) throw new HadalError('HADAL_ERR_SHAPE', `[${op}] expected all of grad in use, got a bounded extent`);
  if (!residual) return;
  expectDType(op, 'residual', residual, 'fp32');
  expectShape(op, 'residual', residual, grad.shape);
}

const expectMessage = (op: string, name: string, message: Value, ranks: number, count: number): void => {
  expectDType(op, name, message, 'uint8');
  expectShape(op, name, message, [ranks, partBytes(count, ranks)]);
};

interface RankAttrs {
  ranks: number;
}

const quantizeBlocksOp = defineOp<RankAttrs, [grad: Value, residual: Value | null, scale: Value | null], [Value]>({
  name: 'quantize-blocks',
  infer([grad, residual, scale], { ranks }) {
    expectGradient('quantize-blocks', grad, residual, scale);
    return [{ shape: [ranks, partBytes(grad.size, ranks)], dtype: 'uint8' }];
  },
  kernel: ([grad, residual, scale], [message], { ranks }) => ({
    kernel: 'quantize-blocks',
    params: { count: grad.size, ranks },
    buffers: [grad, residual, scale, message],
  }),
});

/**
 * A tensor cut to a part for each rank, in 8 bits a number and a scale each 256.
 *
 * @param grad - fp32, any shape
 * @param residual - added to it; null: nothing
 * @returns uint8 [ranks, bytes of a part]
 * @throws HadalError HADAL_ERR_SHAPE, HADAL_ERR_DTYPE
 */
export function quantizeBlocks(grad: Value, residual: Residual | null, ranks: number): Value {
  return quantizeBlocksOp.apply([grad, residual?.value ?? null, residual?.scale ?? null], { ranks })[0];
}

interface SumAttrs extends RankAttrs {
  rank: number;
  count: number;
}

type SumInputs = [received: Value, ...own: [sent: Value, grad: Value, residual: Value, scale: Value] | []];

const sumBlocksOp = defineOp<SumAttrs, SumInputs, readonly Value[]>({
  name: 'sum-blocks',
  inPlace: [[1, 3]],
  infer([received, sent, grad, residual, scale], { ranks, count }) {
    expectMessage('sum-blocks', 'received', received, ranks, count);
    const message = { shape: [partBytes(count, ranks)], dtype: 'uint8' } as const;
    if (!sent || !grad) return [message];
    expectMessage('sum-blocks', 'sent', sent, ranks, count);
    expectGradient('sum-blocks', grad, residual ?? null, scale ?? null);
    return [message, { shape: grad.shape, dtype: 'fp32' }];
  },
  kernel: ([received, sent, grad, residual, scale], [message, next], { ranks, rank, count }) => ({
    kernel: 'sum-blocks',
    params: { count, ranks, rank },
    buffers: [
      ...[received, sent ?? null, grad ?? null, residual ?? null, scale ?? null],
      ...[message as Value, next ?? null],
    ],
  }),
});

/** A rank's part of a sum, and what is left of the rank's own numbers. */
export interface SummedBlocks {
  /** uint8 [bytes of a part]: the sum, quantised. */
  message: Value;
  /** fp32, shape of the gradient: what the messages lack of it and, in this rank's part, of the sum; null where none was given. */
  residual: Value | null;
}

/**
 * The sum over the ranks of this rank's part of a tensor of `count` numbers, in the order of the ranks, quantised again.
 *
 * @param received - uint8 [ranks, bytes of a part], this rank's part from each rank
 * @param own - what this rank has sent, and what of; null: what rounding takes is lost
 * @throws HadalError HADAL_ERR_SHAPE, HADAL_ERR_DTYPE
 */
export function sumBlocks(
  received: Value,
  own: { sent: Value; grad: Value; residual: Residual } | null,
  attrs: SumAttrs,
): SummedBlocks {
  const given = own ? ([own.sent, own.grad, own.residual.value, own.residual.scale] as const) : ([] as const);
  const [message, residual = null] = sumBlocksOp.apply([received, ...given], attrs);
  return { message: message as Value, residual };
}

interface DequantizeAttrs extends RankAttrs {
  shape: Shape;
}

const dequantizeBlocksOp = defineOp<DequantizeAttrs, [messages: Value], [Value]>({
  name: 'dequantize-blocks',
  infer([messages], { ranks, shape }) {
    expectMessage('dequantize-blocks', 'messages', messages, ranks, sizeOf(shape));
    return [{ shape, dtype: 'fp32' }];
  },
  kernel: ([messages], [y], { ranks }) => ({
    kernel: 'dequantize-blocks',
    params: { count: y.size, ranks },
    buffers: [messages, y],
  }),
});

/**
 * The tensor that messages tell of.
 *
 * @param messages - uint8 [ranks, bytes of a part]
 * @param shape - of the tensor
 * @returns fp32
 * @throws HadalError HADAL_ERR_SHAPE, HADAL_ERR_DTYPE
 */
export function dequantizeBlocks(messages: Value, shape: Shape, ranks: number): Value {
  return dequantizeBlocksOp.apply([messages], { ranks, shape })[0];
}
