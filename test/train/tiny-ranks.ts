// Tiny models in training on several ranks of this process.
import { type Batch, emptyBatch } from '../../src/data/batch.js';
import type { DistConfig } from '../../src/optim/dist-config.js';
import type { Device } from '../../src/runtime/device.js';
import type { Plans } from '../../src/train/planning.js';
import type { StepConfig } from '../../src/train/step.js';
import { Stepper } from '../../src/train/stepper.js';
import { joinedDevices } from '../support/joined-devices.js';
import { plannerHere, tinyModel } from './tiny.js';

/** A rank without compression or shards. */
export const dist = (rank: number, worldSize: number): DistConfig => ({
  ...{ rank, worldSize, zero: 0, bucketBytes: 4 * 2 ** 20, overlap: true },
  compression: { kind: 'none', errorFeedback: false, density: 0.01, rank: 4, startStep: 0 },
});

export interface Ranks extends Disposable {
  readonly steppers: readonly Stepper[];
  /** Runs the work of all ranks at once. */
  all<T>(work: (stepper: Stepper, rank: number) => Promise<T>): Promise<T[]>;
}

/** Steppers of the tiny model, which begin with equal weights. */
export async function tinyRanks(
  worldSize: number,
  config: (rank: number) => StepConfig,
  { accumulates = false, seed = 1 } = {},
): Promise<Ranks> {
  const joined = await joinedDevices(worldSize);
  const model = tinyModel();
  // All ranks run the same programs, but for what fills their shards.
  const planner = plannerHere(model, (joined.devices[0] as Device).target);
  const shared = await planner.programs(config(0), { accumulates });
  const plans = await Promise.all(
    joined.devices.map(async (_, rank): Promise<Plans> => {
      return { ...shared, initialization: await planner.plan('initialization', config(rank)) };
    }),
  );
  const steppers = joined.devices.map((device, rank) => new Stepper(device, model, config(rank), plans[rank] as Plans));
  const all: Ranks['all'] = (work) => joined.all((_, rank) => work(steppers[rank] as Stepper, rank));
  await all((stepper) => stepper.initialize(seed));
  return {
    steppers,
    all,
    [Symbol.dispose]() {
      for (const stepper of steppers) stepper.dispose();
      joined[Symbol.dispose]();
    },
  };
}

/** Batches' rows, one after the other. */
export function joinRows(batches: readonly Batch[]): Batch {
  const { seqLen, mtpTokens } = batches[0] as Batch;
  const rows = batches.reduce((sum, { batch }) => sum + batch, 0);
  const joined = emptyBatch(rows, seqLen, mtpTokens.length);
  let row = 0;
  for (const batch of batches) {
    const at = row * seqLen;
    for (const name of ['tokens', 'docIds', 'positions', 'labels'] as const) joined[name].set(batch[name], at);
    for (const [k, tokens] of batch.mtpTokens.entries()) joined.mtpTokens[k]?.set(tokens, at);
    for (const [k, labels] of batch.mtpLabels.entries()) {
      joined.mtpLabels[k]?.set(labels, at);
      (joined.counts.mtpLabels[k] as number) += batch.counts.mtpLabels[k] as number;
    }
    for (const name of ['tokens', 'labels', 'sequences'] as const) joined.counts[name] += batch.counts[name];
    row += batch.batch;
  }
  return joined;
}
