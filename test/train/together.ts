// Runs of several processes that are none: each rank trains in this one, over real groups.
import { join } from 'node:path';
import { HadalError } from '../../src/core/errors.js';
import type { World } from '../../src/dist/world.js';
import { openTensorDirectory } from '../../src/formats/safetensors.js';
import type { TrainEvent } from '../../src/train/events.js';
import type { TrainOptions } from '../../src/train/options.js';
import { type TrainHooks, train } from '../../src/train/train.js';
import { type LocalWorldsOptions, localWorlds } from '../support/worlds.js';
import { checkpointsOf } from './runs.js';

/** What a rank told, and how it ended. */
export interface Told {
  events: TrainEvent[];
  error: HadalError | null;
}

/** Trains as one rank. */
export async function runRank(
  world: World,
  options: TrainOptions,
  hooks: Omit<TrainHooks, 'world'> = {},
  onEvent: (event: TrainEvent) => void = () => {},
): Promise<Told> {
  const told: Told = { events: [], error: null };
  try {
    for await (const event of train(options, { ...hooks, world })) {
      told.events.push(event);
      onEvent(event);
    }
  } catch (error) {
    if (!(error instanceof HadalError)) throw error;
    told.error = error;
  }
  return told;
}

/** Trains with so many ranks to the end. @param of - what a rank has of its own */
export async function runTogether(
  size: number,
  options: TrainOptions,
  of: (rank: number) => { options?: Partial<TrainOptions>; hooks?: Omit<TrainHooks, 'world'> } = () => ({}),
  how: LocalWorldsOptions = {},
): Promise<Told[]> {
  await using local = await localWorlds(size, how);
  return await Promise.all(
    local.worlds.map((world) => {
      const { options: own, hooks } = of(world.rank);
      return runRank(world, { ...options, ...own }, hooks);
    }),
  );
}

/** The weights of a run's last checkpoint, all in a row. */
export async function weightsOf(out: string): Promise<Float32Array> {
  const path = join(out, 'checkpoints', checkpointsOf(out).at(-1) as string);
  await using files = await openTensorDirectory(path);
  const names = [...files.tensors.keys()].sort();
  const parts = await Promise.all(names.map((name) => files.read(name)));
  return new Float32Array(new Uint8Array(Buffer.concat(parts)).buffer);
}

/** ‖a − b‖ / ‖b‖. */
export function distance(a: Float32Array, b: Float32Array): number {
  let [difference, norm] = [0, 0];
  for (const [i, x] of a.entries()) {
    difference += (x - (b[i] as number)) ** 2;
    norm += (b[i] as number) ** 2;
  }
  return Math.sqrt(difference / norm);
}
