// Gradients of all processes become their sum: on each process whole, or its share.
import type { Graph, Value } from '../graph/graph.js';
import { allReduce } from '../ops/collectives.js';
import { compressedSums } from './compression/compress.js';
import type { NamedValue } from './compression/residuals.js';
import { type DistConfig, dataRanks } from './dist-config.js';

/** Gradients in an update's contributions are named after the parameters. */
export const gradientPrefix = 'gradient/';

/** Format in which sums of gradients travel. */
export const wireOf = ({ compression: { kind } }: DistConfig): 'fp32' | 'bf16' | 'fp16' =>
  kind === 'fp16' || kind === 'bf16' ? kind : 'fp32';

/**
 * The sum of each gradient over the processes, the same bits on all of them.
 *
 * @param gradients - of this process's rows, already scaled by what all rows are the mean over
 */
export function reduceGradients(graph: Graph, gradients: readonly NamedValue[], dist: DistConfig): Value[] {
  const { kind, errorFeedback } = dist.compression;
  const isRounded = kind === 'none' || ((kind === 'fp16' || kind === 'bf16') && !errorFeedback);
  if (!isRounded) return compressedSums(graph, gradients, dist);
  const values = gradients.map(({ value }) => value);
  return allReduce(values, { ...dataRanks(dist), op: 'sum', wire: wireOf(dist) });
}

/** What is no gradient (losses, loads of experts, counts) is summed as it is. @param isUrgent - at once, alone */
export const reduceSums = (values: readonly Value[], dist: DistConfig, isUrgent = false): Value[] =>
  allReduce(values, { ...dataRanks(dist), ...(isUrgent && { isUrgent }), op: 'sum', wire: 'fp32' });
