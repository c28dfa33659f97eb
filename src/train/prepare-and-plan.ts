// Data and programs of a run, made at the same time: the first step is not to wait for both.
import { reported } from '../core/progress.js';
import type { PreparedPart } from '../data/prepared.js';
import type { Model } from '../models/model.js';
import type { PrecisionDType } from '../passes/narrow.js';
import type { Device } from '../runtime/device.js';
import { dataClaims, requireAgreement } from './agreement.js';
import type { TrainConfig } from './config.js';
import type { PrepareEvent } from './events.js';
import { type Fitted, fitToMemory, memoryBudget } from './fit.js';
import { candidatesOf, Planner, type Plans } from './planning.js';
import { type PreparedRun, prepareRun } from './prepare.js';
import { roomOf } from './room.js';
import type { Kept } from './rounds.js';
import { stepConfigOf } from './step-config.js';
import type { Together } from './together.js';

/** What is prepared. */
export interface PrepareTask {
  given: TrainConfig;
  model: Model;
  dtype: PrecisionDType;
  device: Device;
  signal: AbortSignal | undefined;
}

/** What {@link prepareAndPlan} makes. */
export interface Planned extends Pick<Fitted, 'config' | 'decisions'> {
  prepared: PreparedRun;
  heldOut: PreparedPart;
  plans: Plans;
}

/**
 * Prepares data and plans programs. What cannot fit is refused before.
 *
 * @throws HadalError as {@link fitToMemory} and {@link prepareRun} do; HADAL_ERR_CONFIG where processes have different data
 */
export async function* prepareAndPlan(
  { given, model, dtype, device, signal }: PrepareTask,
  together: Together,
  kept: Kept,
): AsyncGenerator<PrepareEvent, Planned> {
  await using planner = new Planner(model, device.target);
  yield { type: 'prepare', phase: 'program', done: 0, total: 0 };
  const fitted = await fittedTogether(withSizes(given, kept.fitted), planner, dtype, device, together);
  kept.fitted = fitted;
  const { config, decisions } = fitted;
  const plans = planner.programs(stepConfigOf(config, dtype, together), fitted);
  plans.catch(() => {}); // reported where they are awaited
  const prepared = yield* untilOver(together, signal, (ends) =>
    reported<PrepareEvent, PreparedRun>(
      (onEvent, stop) =>
        preparedTogether(kept.prepared, () => prepareRun(given, model.vocabSize, { signal: stop, onEvent }), together),
      ends,
    ),
  );
  kept.prepared = prepared;
  await requireAgreement(together, 'data', dataClaims(prepared));
  const { heldOut } = prepared.data;
  if (!heldOut) {
    throw together.common(
      'HADAL_ERR_DATA',
      '[train] expected at least two documents, one of them for evaluation; give more data or a larger data.heldOut',
    );
  }
  yield { type: 'prepare', phase: 'program', done: 0, total: 1 };
  return { config, decisions, prepared, heldOut, plans: await plans };
}

/** Sizes that were decided in the round before stay as they are. */
function withSizes(given: TrainConfig, before: Fitted | null): TrainConfig {
  if (!before) return given;
  const { batch, gradAccumulationSteps, memory } = before.config;
  return { ...given, batch, gradAccumulationSteps, memory: { ...given.memory, lossChunkRows: memory.lossChunkRows } };
}

/** Rank 0 decides sizes, and what is recomputed, for all: equal programs call the same collectives in the same order. */
async function fittedTogether(
  given: TrainConfig,
  planner: Planner,
  dtype: PrecisionDType,
  device: Device,
  together: Together,
): Promise<Fitted> {
  requireRows(given, together);
  const first = await together.madeByFirst('sizes', async () => {
    const fitted = await fitToMemory(given, planner, dtype, roomOf(device, together.localSize), together);
    const plans = await planner.updates(stepConfigOf(fitted.config, dtype, together), fitted);
    return { ...fitted, candidates: candidatesOf(plans) };
  });
  if (together.isFirst) return { ...first, candidates: undefined };
  const { batch, gradAccumulationSteps, activationCheckpointing, checkpoint, memory } = first.config;
  const config = {
    ...{ ...given, batch, gradAccumulationSteps, activationCheckpointing },
    checkpoint: { ...given.checkpoint, background: checkpoint.background },
    memory: {
      ...{ ...given.memory, lossChunkRows: memory.lossChunkRows },
      budget: memoryBudget(given.memory.budget, roomOf(device, together.localSize)),
    },
  };
  return { ...first, config, decisions: [] };
}

/** Each process has a row of each micro-batch. */
function requireRows({ batch, gradAccumulationSteps: parts }: TrainConfig, together: Together): void {
  const { size } = together;
  const rows = batch === 'auto' ? size : batch / (parts === 'auto' ? 1 : parts);
  if (rows >= size) return;
  throw together.common(
    'HADAL_ERR_CONFIG',
    `[train] expected micro-batches (batch / gradAccumulationSteps) of at least a row for each of ${size} processes, got ${rows}; take a larger batch, fewer processes or fewer micro-batches`,
  );
}

/** Work that the end of the round interrupts, too: the others do not wait for minutes of it. The next round goes on with it. */
async function* untilOver<E, T>(
  { world }: Together,
  signal: AbortSignal | undefined,
  work: (signal: AbortSignal | undefined) => AsyncGenerator<E, T>,
): AsyncGenerator<E, T> {
  if (!world) return yield* work(signal);
  try {
    return yield* work(AbortSignal.any([world.signal, ...(signal ? [signal] : [])]));
  } catch (error) {
    world.signal.throwIfAborted();
    throw error;
  }
}

/** One process of each host prepares, the others open what it has made. */
async function preparedTogether(
  before: PreparedRun | null,
  prepare: () => Promise<PreparedRun>,
  together: Together,
): Promise<PreparedRun> {
  let made = before;
  const make = async (): Promise<void> => {
    made = await prepare();
  };
  await together.done('data prepared', together.isFirstOfHost && !before ? make : null);
  return made ?? prepare();
}
