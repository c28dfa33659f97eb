// Gradients of all processes become their sum: on each process whole, or its share.
import type { Value } from '../graph/graph.js';
import { allReduce, type Ranks } from '../ops/collectives.js';
import type { DistConfig } from './dist-config.js';

/** Gradients in an update's contributions are named after the parameters. */
export const gradientPrefix = 'gradient/';

/** A parameter's gradient, fp32. */
export interface NamedGradient {
  name: string;
  value: Value;
}

/** The processes that share the data. */
export const dataRanks = ({ worldSize }: DistConfig): Ranks => ({ axis: 'dp', size: worldSize });

/** Format in which sums of gradients travel. */
export const wireOf = ({ compression: { kind } }: DistConfig): 'fp32' | 'bf16' | 'fp16' =>
  kind === 'fp16' || kind === 'bf16' ? kind : 'fp32';

/**
 * The sum of each gradient over the processes, the same bits on all of them.
 *
 * @param gradients - of this process's rows, already scaled by what all rows are the mean over
 */
export function reduceGradients(gradients: readonly NamedGradient[], dist: DistConfig): Value[] {
  const values = gradients.map(({ value }) => value);
  return allReduce(values, { ...dataRanks(dist), op: 'sum', wire: wireOf(dist) });
}

/** What is no gradient (losses, loads of experts, counts) is summed as it is. @param isUrgent - at once, alone */
export const reduceSums = (values: readonly Value[], dist: DistConfig, isUrgent = false): Value[] =>
  allReduce(values, { ...dataRanks(dist), ...(isUrgent && { isUrgent }), op: 'sum', wire: 'fp32' });
