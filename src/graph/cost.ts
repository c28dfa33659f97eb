import type { Node, Value } from './graph.js';
import type { Cost } from './op.js';

/** What running a node once takes: as its op says, else no flops, everything read and written once. */
export function costOf({ op, inputs, outputs, attrs }: Node): Cost {
  const ownCost = op.cost?.(inputs, outputs, attrs);
  return ownCost ?? { flops: 0, bytesRead: bytesOfAll(inputs), bytesWritten: bytesOfAll(outputs) };
}

/** What copying a value takes. */
export const costOfCopy = ({ bytes }: Value): Cost => ({ flops: 0, bytesRead: bytes, bytesWritten: bytes });

/** Bytes of values together. */
export const bytesOfAll = (values: readonly (Value | null)[]): number =>
  values.reduce((sum, value) => sum + (value?.bytes ?? 0), 0);
