// ZeRO: what training remembers of a parameter lies in shares, one a process, instead of whole in each. Rajbhandari et al. 2020,
// arXiv:1910.02054.
//
// Of a parameter of n numbers, rank r of W owns numbers [r·c, (r+1)·c) of the n, c = ⌈n / W⌉; what is left of the c of the last
// ranks holds zeros. With stage 1 and more, slot `shard/<parameter>` [c] is the parameter: fp32, updated by its owner alone.
// Whatever whole form programs read, `<parameter>` or its copy in 16 bits, is gathered from the shards.
import { HadalError } from '../core/errors.js';
import { type Shape, sizeOf } from '../core/shape.js';
import type { Graph, Value } from '../graph/graph.js';
import { allGather, allReduce, reduceScatter, shareSize } from '../ops/collectives.js';
import { cast, sqrt } from '../ops/elementwise.js';
import { concat, reshape, slice } from '../ops/shape.js';
import { fill } from '../ops/sources.js';
import { squaredNorm } from '../ops/squared-norm.js';
import { type DistConfig, dataRanks } from './dist-config.js';
import { settingsOf } from './groups.js';
import type { OptimizerConfig } from './optimizer.js';
import { wireOf } from './reduce-gradients.js';
import type { OptimizedParameter } from './update-state.js';

/** Slots of shards are named after the parameter that they are a share of. */
export const shardPrefix = 'shard/';

/** The parameter that a slot holds, whole or a shard of; of other slots, their names. */
export const parameterIn = (slot: string): string =>
  slot.startsWith(shardPrefix) ? slot.slice(shardPrefix.length) : slot;

/** The numbers [begin, end) of a parameter, in a tensor of shape [size] whose rest is zeros. */
export interface Shard {
  begin: number;
  end: number;
  /** The same on all ranks. */
  size: number;
}

/** What a rank owns of a tensor of `numbers` numbers. */
export function shardOf(numbers: number, { rank, worldSize }: Pick<DistConfig, 'rank' | 'worldSize'>): Shard {
  const size = shareSize(numbers, worldSize);
  return { begin: Math.min(numbers, rank * size), end: Math.min(numbers, (rank + 1) * size), size };
}

/** What a slot holds a share of. */
export interface SlotShard extends Shard {
  parameter: string;
  /** `shard`: its numbers; else what is remembered of it: `adam.m`, `ema`, … */
  kind: string;
}

/**
 * Which share of which parameter a slot holds that checkpoints keep.
 *
 * @param slot - a shard of a parameter, or of the state of one: `<kind>/<parameter>`
 * @param parameters - all of the model's
 * @returns null where every process holds it whole: counters, the loss scale, parameters that are not trained
 */
export function shardOfSlot(
  slot: string,
  parameters: ReadonlyMap<string, { shape: Shape }>,
  dist: DistConfig | null,
): SlotShard | null {
  const at = slot.indexOf('/');
  const [kind, parameter] = [slot.slice(0, at), slot.slice(at + 1)];
  const shape = at < 0 ? undefined : parameters.get(parameter)?.shape;
  if (!isSharded(dist) || !shape) return null;
  return { parameter, kind, ...shardOf(sizeOf(shape), dist) };
}

/** Whether parameters lie in shards. */
export const isSharded = (dist: DistConfig | null): dist is DistConfig => dist !== null && dist.zero > 0;

/** This rank's shard of a parameter, before the program. */
export const readShard = (graph: Graph, { name, shape }: { name: string; shape: Shape }, dist: DistConfig): Value =>
  graph.slot(shardPrefix + name, [shardOf(sizeOf(shape), dist).size], 'fp32');

/** This rank's shard of a value that is there whole. @param whole - fp32, any shape */
export function shardOfWhole(whole: Value, dist: DistConfig): Value {
  const { graph } = whole.node;
  const { begin, end, size } = shardOf(whole.size, dist);
  if (begin === end) return fill(graph, [size], 0);
  const own = slice(reshape(whole, [-1]), 0, begin, end);
  return end - begin === size ? own : concat([own, fill(graph, [size - (end - begin)], 0)], 0);
}

/**
 * Parameters as the optimizer is to see them: this rank's shard of each.
 *
 * @throws HadalError HADAL_ERR_CONFIG for Muon, which needs whole matrices
 */
export function asShards<P extends OptimizedParameter>(
  parameters: readonly P[],
  config: OptimizerConfig,
  dist: DistConfig,
): P[] {
  const whole = settingsOf(parameters, config).findIndex(({ kind }) => kind === 'muon');
  if (whole >= 0) {
    throw new HadalError(
      'HADAL_ERR_CONFIG',
      `[zero] expected an optimizer that takes numbers one by one, got muon for '${parameters[whole]?.name}', which takes whole matrices; take another optimizer.kind, or dist.zero 0`,
    );
  }
  return parameters.map((parameter) => {
    const { size } = shardOf(sizeOf(parameter.shape), dist);
    return { ...parameter, shard: { slot: shardPrefix + parameter.name, shape: [size] } };
  });
}

/** This rank's shards of the sums of gradients over all ranks. @param grads - fp32, whole */
export const scatterGradients = (grads: readonly Value[], dist: DistConfig): Value[] =>
  reduceScatter(grads, { ...dataRanks(dist), op: 'sum', wire: wireOf(dist) });

/** √(Σ over the shards of all ranks of Σ g²), fp32 [1]; the same bits on all. */
export function normOfShards(shards: readonly Value[], dist: DistConfig): Value {
  const reduction = { ...dataRanks(dist), op: 'sum', wire: 'fp32', isUrgent: true } as const;
  return sqrt(allReduce([squaredNorm(shards)], reduction)[0] as Value);
}

/** A parameter, whole. @param share - this rank's, any dtype */
export const gathered = (share: Value, shape: Shape, dist: DistConfig): Value =>
  allGather([{ share, shape }], dataRanks(dist))[0] as Value;

/** A slot in which programs read a parameter whole. */
export interface WholeSlot {
  slot: string;
  parameter: string;
  shape: Shape;
  dtype: 'fp32' | 'bf16' | 'fp16';
}

/** Makes of shards what programs read whole. @param shardOfParameter - fp32, as it is to be */
export function gatherWholes(
  graph: Graph,
  wholes: readonly WholeSlot[],
  shardOfParameter: (whole: WholeSlot) => Value,
  dist: DistConfig,
): void {
  for (const whole of wholes) {
    const { slot, shape, dtype } = whole;
    graph.slot(slot, shape, dtype);
    graph.update(slot, gathered(cast(shardOfParameter(whole), dtype), shape, dist));
  }
}
