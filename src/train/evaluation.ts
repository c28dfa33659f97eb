// Loss on held-out text.
import { evalBatches } from '../data/loader.js';
import type { Stepper } from './stepper.js';
import type { Together } from './together.js';

/** What is evaluated. */
export interface HeldOutRows {
  /** Directory of token shards. */
  shards: string;
  /** Rows that all processes compute at a time. */
  batch: number;
  /** So many times; 0: all there are. */
  batches: number;
}

/**
 * Mean cross-entropy of held-out text, nats a token, in the documents' own order; each process computes its share of the rows.
 *
 * @returns the same in all processes
 */
export async function heldOutLoss(
  stepper: Stepper,
  { shards, batch, batches }: HeldOutRows,
  together: Together,
): Promise<{ evalLoss: number; tokens: number }> {
  const { seqLen } = stepper.config;
  const { rank, size: worldSize } = together;
  let [nats, labels, count] = [0, 0, 0];
  // Packed here, in a hundredth of the time that their computation takes; starting a worker takes longer.
  for await (const rows of evalBatches({ shards, batch, seqLen, rank, worldSize, threads: 0 })) {
    nats += await stepper.evaluate(rows);
    labels += rows.counts.labels;
    if (++count === batches) break;
  }
  // As text: JSON has no NaN.
  const all = await together.gather('evaluation', [String(nats), labels] as const);
  const tokens = all.reduce((sum, [, each]) => sum + each, 0);
  return { evalLoss: all.reduce((sum, [each]) => sum + Number(each), 0) / Math.max(1, tokens), tokens };
}
