// A run from its configuration on: model, device, data and plans, then the updates.
import { HadalError } from '../core/errors.js';
import { residentBytes } from '../core/memory.js';
import { usableProcessors } from '../core/processors.js';
import { reported } from '../core/progress.js';
import type { PreparedPart } from '../data/prepared.js';
import { withEconomy } from '../models/economy.js';
import { modelFromConfig } from '../models/families.js';
import { type Model, parameterCounts } from '../models/model.js';
import type { PrecisionDType } from '../passes/narrow.js';
import { bestDType } from '../runtime/best-dtype.js';
import { openDevice } from '../runtime/device.js';
import { type ModelSource, openModelSource } from '../session/model-source.js';
import { resolveTrainConfig, type TrainConfig } from './config.js';
import { withEarlierSizes } from './earlier-sizes.js';
import type { EndEvent, PrepareEvent, TrainEvent } from './events.js';
import { type Fitted, fitToMemory } from './fit.js';
import { growthInTraining, hasSnapshot, planMemory } from './memory.js';
import { openOffloadFile } from './offload.js';
import type { TrainOptions } from './options.js';
import { Planner, type Plans } from './planning.js';
import { type PreparedRun, prepareRun, requireSources } from './prepare.js';
import { Run, type RunHooks } from './run.js';
import { RunDirectory } from './run-directory.js';
import { stepConfigOf } from './step-config.js';
import { Stepper } from './stepper.js';

/** What a caller may hand to {@link train}. */
export interface TrainHooks extends RunHooks {
  signal?: AbortSignal;
}

/**
 * Trains a model: prepares data, runs updates, evaluates, writes checkpoints.
 *
 * Leaving the loop stops after the current update. Aborting saves a checkpoint first.
 *
 * @param options - see {@link TrainOptions}; defaults may be left out
 * @returns typed events; the last one is an {@link EndEvent}
 * @throws HadalError HADAL_ERR_CONFIG, HADAL_ERR_DATA, HADAL_ERR_CHECKPOINT, HADAL_ERR_LOCKED, HADAL_ERR_IO,
 * HADAL_ERR_MEMORY, HADAL_ERR_RUN, HADAL_ERR_NUMERICS, and HADAL_ERR_ABORTED after the checkpoint of an aborted run
 */
export async function* train(
  options: TrainOptions,
  { signal, ...hooks }: TrainHooks = {},
): AsyncGenerator<TrainEvent, void> {
  const asked = resolveTrainConfig(options);
  const { model, source } = await modelOf(asked);
  checkLengths(asked, model);
  await requireSources(asked);
  // Before minutes of tokenizing whose tokens nothing could train on.
  using device = openDevice(asked.device, {
    threads: asked.threads ?? usableProcessors(),
    pinThreads: asked.pinThreads,
  });
  using directory = await RunDirectory.open(asked.out, { resume: asked.resume });
  const goesOn = (await directory.checkpoints()).length > 0;
  const given = goesOn ? await withEarlierSizes(asked, directory.path) : asked;
  const notes: string[] = [];
  using offloadFile = openOffloadFile(given, (message) => notes.push(message));
  const dtype = given.dtype === 'auto' ? bestDType() : given.dtype;
  const planned = yield* prepareAndPlan(given, model, dtype, device.threads, signal);
  const { config, decisions, prepared, heldOut, plans } = planned;
  const memory = planMemory(model, plans, {
    gradAccumulationSteps: config.gradAccumulationSteps,
    snapshot: hasSnapshot(config),
    base: residentBytes().now + growthInTraining,
    budget: config.memory.budget,
  });
  using stepper = new Stepper(device, model, stepConfigOf(config, dtype), plans, offloadFile);
  const run = new Run(config, directory, stepper, device, prepared, heldOut, source, hooks);

  notes.push(...decisions, ...(await run.load()));
  await using loader = run.openLoader();
  // Not before: a run that is refused leaves what is in the directory as it was.
  await directory.writeConfig({ ...config, device: device.name, dtype, threads: device.threads });
  await run.truncateMetrics();
  const { instructionSet } = run.state;
  const { total: parameters, active } = parameterCounts(model);
  yield {
    type: 'start',
    runDir: directory.path,
    step: run.state.step,
    steps: config.steps,
    parameters,
    activeParameters: active,
    trainTokens: prepared.data.train.tokens,
    heldOutTokens: heldOut.tokens,
    device: device.name,
    threads: device.threads,
    instructionSet,
    dtype,
    memory,
    notes,
  };
  await using saver = run.openSaver();
  yield* run.updates(loader, saver, signal);
}

/** What {@link prepareAndPlan} makes. */
interface Planned extends Pick<Fitted, 'config' | 'decisions'> {
  prepared: PreparedRun;
  heldOut: PreparedPart;
  plans: Plans;
}

/** Data and programs, made at the same time: the first step is not to wait for both. What cannot fit is refused before. */
async function* prepareAndPlan(
  given: TrainConfig,
  model: Model,
  dtype: PrecisionDType,
  threads: number,
  signal: AbortSignal | undefined,
): AsyncGenerator<PrepareEvent, Planned> {
  await using planner = new Planner(model, threads);
  yield { type: 'prepare', phase: 'program', done: 0, total: 0 };
  const { config, decisions, ...fitted } = await fitToMemory(given, planner, dtype);
  const plans = planner.programs(stepConfigOf(config, dtype), fitted);
  plans.catch(() => {}); // reported where they are awaited
  const prepared = yield* reported<PrepareEvent, PreparedRun>(
    (onEvent, stop) => prepareRun(given, model.vocabSize, { signal: stop, onEvent }),
    signal,
  );
  const { heldOut } = prepared.data;
  if (!heldOut) {
    throw new HadalError(
      'HADAL_ERR_DATA',
      '[train] expected at least two documents, one of them for evaluation; give more data or a larger data.heldOut',
    );
  }
  yield { type: 'prepare', phase: 'program', done: 0, total: 1 };
  return { config, decisions, prepared, heldOut, plans: await plans };
}

async function modelOf({ model: given }: TrainConfig): Promise<{ model: Model; source: ModelSource | null }> {
  if ('config' in given)
    return { model: withEconomy(modelFromConfig(given.config, 'model.config'), given), source: null };
  const source = await openModelSource(given.directory);
  return { model: withEconomy(source.model, given), source };
}

function checkLengths({ seqLen }: TrainConfig, { maxPositions }: Model): void {
  if (seqLen > maxPositions) {
    throw new HadalError(
      'HADAL_ERR_CONFIG',
      `[train] field 'seqLen' expected at most ${maxPositions} (the model's positions), got ${seqLen}`,
    );
  }
}
