// ZeRO: what training remembers of a parameter lies in shares, one a process, instead of whole in each. Rajbhandari et al. 2020,
// arXiv:1910.02054.
//
// Of a parameter of n numbers, rank r of W owns numbers [r·c, (r+1)·c) of the n, c = ⌈n / W⌉; what is left of the c of the last
// ranks holds zeros. With stage 1 and more, slot `shard/<parameter>` [c] is the parameter: fp32, updated by its owner alone.
// Whatever whole form programs read, `<parameter>` or its copy in 16 bits, is gathered from the shards.
import { type Shape, sizeOf } from '../core/shape.js';
import type { DistConfig } from './dist-config.js';

/** Slots of shards are named after the parameter that they are a share of. */
export const shardPrefix = 'shard/';

/** The numbers [begin, end) of a parameter, in a tensor of shape [size] whose rest is zeros. */
export interface Shard {
  begin: number;
  end: number;
  /** The same on all ranks. */
  size: number;
}

/** What a rank owns of a tensor of `numbers` numbers. */
export function shardOf(numbers: number, { rank, worldSize }: Pick<DistConfig, 'rank' | 'worldSize'>): Shard {
  const size = Math.ceil(numbers / worldSize);
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
  if (!dist || dist.zero === 0 || !shape) return null;
  return { parameter, kind, ...shardOf(sizeOf(shape), dist) };
}
