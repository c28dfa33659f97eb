// The numbers of greatest magnitude of a tensor with their places, and their sum over ranks. Formulas: native/ops/top-k.h.
import { HadalError } from '../core/errors.js';
import { type Shape, sizeOf } from '../core/shape.js';
import type { Value } from '../graph/graph.js';
import { defineOp, expectDType, expectShape } from './define-op.js';
import { expectGradient, type Residual } from './quantize-blocks.js';

/** Bytes of a message of `kept` numbers: an int32 and a bf16 each, padded to whole int32. */
export const topKBytes = (kept: number): number => Math.ceil((6 * kept) / 4) * 4;

function expectKept(op: string, kept: number, count: number): void {
  if (Number.isInteger(kept) && kept >= 1 && kept <= count && count < 2 ** 31) return;
  throw new HadalError(
    'HADAL_ERR_SHAPE',
    `[${op}] expected to keep 1 to ${count} of fewer than 2^31 numbers, got ${kept}`,
  );
}

interface TopKAttrs {
  kept: number;
}

const topKOp = defineOp<TopKAttrs, [grad: Value, residual: Value | null, scale: Value | null], readonly Value[]>({
  name: 'top-k',
  inPlace: [[1, 1]],
  infer([grad, residual, scale], { kept }) {
    expectGradient('top-k', grad, residual, scale);
    expectKept('top-k', kept, grad.size);
    const message = { shape: [topKBytes(kept)], dtype: 'uint8' } as const;
    return residual ? [message, { shape: grad.shape, dtype: 'fp32' }] : [message];
  },
  kernel: ([grad, residual, scale], [message, next], { kept }) => ({
    kernel: 'top-k',
    params: { count: grad.size, kept },
    buffers: [grad, residual, scale, message as Value, next ?? null],
  }),
});

/**
 * The `kept` numbers of greatest magnitude, of equal ones those of the lowest places, rounded to bf16.
 *
 * @param grad - fp32, any shape
 * @param residual - added to it; null: nothing
 * @returns message: uint8, places and numbers; residual: fp32, what the message lacks; null where none was given
 * @throws HadalError HADAL_ERR_SHAPE, HADAL_ERR_DTYPE
 */
export function topK(grad: Value, residual: Residual | null, kept: number): { message: Value; residual: Value | null } {
  const [message, left = null] = topKOp.apply([grad, residual?.value ?? null, residual?.scale ?? null], { kept });
  return { message: message as Value, residual: left };
}

interface SumAttrs extends TopKAttrs {
  shape: Shape;
}

const topKSumOp = defineOp<SumAttrs, [messages: Value], [Value]>({
  name: 'top-k-sum',
  infer([messages], { kept, shape }) {
    expectDType('top-k-sum', 'messages', messages, 'uint8');
    expectShape('top-k-sum', 'messages', messages, [null, topKBytes(kept)]);
    expectKept('top-k-sum', kept, sizeOf(shape));
    return [{ shape, dtype: 'fp32' }];
  },
  kernel: ([messages], [y], { kept }) => ({
    kernel: 'top-k-sum',
    params: { count: y.size, kept, ranks: messages.shape[0] as number },
    buffers: [messages, y],
  }),
});

/**
 * The sum of what several ranks chose of their tensors, 0 elsewhere.
 *
 * @param messages - uint8 [ranks, bytes of a message]
 * @param shape - of the tensors
 * @returns fp32
 * @throws HadalError HADAL_ERR_SHAPE, HADAL_ERR_DTYPE
 */
export function topKSum(messages: Value, shape: Shape, kept: number): Value {
  return topKSumOp.apply([messages], { kept, shape })[0];
}
