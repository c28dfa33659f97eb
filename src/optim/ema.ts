// A running mean of the weights, kept beside them. Polyak & Juditsky 1992 (Acceleration of stochastic approximation by
// averaging), with weights that fall exponentially.
import { invariant } from '../core/errors.js';
import type { Graph } from '../graph/graph.js';
import { add, divide, maximum } from '../ops/elementwise.js';
import { ema } from '../ops/ema.js';
import { updatesSlot } from './update-state.js';
import { parameterIn, shardPrefix } from './zero.js';

/** Slots of running means are named after what they are means of. */
export const emaPrefix = 'ema/';

/**
 * Lets the mean of every parameter, or shard of one, that the graph updates follow it. To be traced after all updates, before
 * what is made of them, and where updates that are skipped do not count. The n-th update's decay is min(decay, (n − 1)/(n + 9)): the first weights are taken as they are,
 * and early ones are soon forgotten.
 */
export function applyEma(graph: Graph, parameters: ReadonlyMap<string, unknown>, decay: number): void {
  const updates = graph.updates.get(updatesSlot);
  invariant(updates, 'a mean of weights needs the count of updates');
  const rest = maximum(divide(10, add(updates, 9)), 1 - decay);
  const followed = [...graph.updates].flatMap(([slot, x]) => {
    const name = parameterIn(slot);
    return parameters.has(name) ? [{ x, slot: emaPrefix + name }] : [];
  });
  const tensors = followed.map(({ x, slot }) => ({ x, mean: graph.slot(slot, x.shape, 'fp32') }));
  for (const [i, mean] of ema(tensors, rest).entries()) graph.update(followed[i]?.slot as string, mean);
}

/**
 * Tensors by slot name, with the means in the place of the parameters: what evaluates them, or saves them as a model.
 * Parameters without a mean are not trained, and stay; so do those that are gathered from shards, which have the means.
 */
export function withEma<T>(tensors: ReadonlyMap<string, T>): Map<string, T> {
  const meanOf = (slot: string) =>
    tensors.has(shardPrefix + slot) ? undefined : tensors.get(emaPrefix + parameterIn(slot));
  return new Map([...tensors].map(([slot, tensor]) => [slot, meanOf(slot) ?? tensor]));
}
