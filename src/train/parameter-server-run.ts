// What the server of a run and its workers have in common.
import { z } from 'zod';
import type { Tensor } from '../runtime/tensor.js';
import { scheduledValues } from './schedules.js';
import type { SizedConfig } from './step-config.js';

/** Where the server listens, and the run's secret. */
export interface ServerAddress {
  host: string;
  port: number;
  token: string;
}

/** What a server tells those who come. */
export const servedRunSchema = z.strictObject({
  /** Configuration of the run; that of a worker does not count but for its device and threads. */
  config: z.record(z.string(), z.unknown()),
  dtype: z.enum(['fp32', 'bf16', 'fp8']),
  /** Updates already made, and where in the data the first micro-batch after them begins. */
  start: z.number().int().nonnegative(),
  token: z.number().int().nonnegative(),
  /** What the data are. */
  documents: z.number(),
  tokensPerEpoch: z.number(),
});

export type ServedRun = z.output<typeof servedRunSchema>;

/** Micro-batches that all updates before one take. */
export function microBatchesBefore(config: SizedConfig): (update: number) => number {
  const sums = [0];
  return (update) => {
    for (let next = sums.length; next <= update; next++) {
      sums.push((sums.at(-1) as number) + scheduledValues(config, Math.min(next - 1, config.steps - 1)).microBatches);
    }
    return sums[update] as number;
  };
}

/** Contents of tensors, one after the other. */
export async function readAll(tensors: readonly Tensor[]): Promise<Uint8Array> {
  const bytes = new Uint8Array(tensors.reduce((sum, tensor) => sum + tensor.bytes, 0));
  let at = 0;
  for (const tensor of tensors) {
    await tensor.read(bytes.subarray(at, at + tensor.bytes));
    at += tensor.bytes;
  }
  return bytes;
}
