// When slots that lie in a file are in memory. These calls are no op's of a graph, since they make no value: a plan puts them
// between its instructions (src/runtime/offload.ts). Formula: native/ops/offload.h.
import type { KernelCall } from '../graph/op.js';

/** Slots of one call: `maxOffloaded` of native/ops/offload.h. */
export const maxOffloaded = 64;

type Call = Pick<KernelCall, 'kernel' | 'params'>;

/**
 * Reads slots into memory ahead of their use.
 *
 * @param bytes - of each slot, at most {@link maxOffloaded} of them
 * @param writes - whether they are about to be written
 */
export function prefetchCall(bytes: readonly number[], writes: boolean): Call {
  return { kernel: 'prefetch', params: { tensors: bytes.length, writes: Number(writes), bytes: padded(bytes) } };
}

/**
 * Lets the system have the memory of slots that were used.
 *
 * @param bytes - of each slot, at most {@link maxOffloaded} of them
 */
export function releaseCall(bytes: readonly number[]): Call {
  return { kernel: 'release', params: { tensors: bytes.length, bytes: padded(bytes) } };
}

const padded = (bytes: readonly number[]) => Array.from({ length: maxOffloaded }, (_, i) => bytes[i] ?? 0);
