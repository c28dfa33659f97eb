// A run from its configuration on: model, device, data and plans, then the updates.

import { loadAddon } from '../addon/addon.js';
import { envFlag } from '../core/env.js';
import { usableProcessors } from '../core/processors.js';
import { version } from '../core/version.js';
import { joinWorld, type World } from '../dist/world.js';
import { type Model, parameterCounts } from '../models/model.js';
import { bestDType } from '../runtime/best-dtype.js';
import { type Device, openDevice } from '../runtime/device.js';
import { trustDevice } from '../selftest/trust.js';
import type { ModelSource } from '../session/model-source.js';
import { configClaims, differingMachines, requireAgreement } from './agreement.js';
import { resolveTrainConfig, type TrainConfig } from './config.js';
import { withEarlierSizes } from './earlier-sizes.js';
import type { EndEvent, TrainEvent } from './events.js';
import { hasSnapshot, planMemory } from './memory.js';
import { modelOf } from './model-of.js';
import { openOffloadFile } from './offload.js';
import { requireOneDirectory } from './one-directory.js';
import type { TrainOptions } from './options.js';
import { isServed, trainServed } from './parameter-server.js';
import { requireSources } from './prepare.js';
import { prepareAndPlan } from './prepare-and-plan.js';
import { roomOf } from './room.js';
import { arrive, inRounds, Kept } from './rounds.js';
import { Run, type RunHooks } from './run.js';
import { RunDirectory } from './run-directory.js';
import { stepConfigOf } from './step-config.js';
import { Stepper } from './stepper.js';
import type { Together } from './together.js';

/** What a caller may hand to {@link train}. */
export interface TrainHooks extends RunHooks {
  signal?: AbortSignal;
  /** The processes to train with, disposed of at the end; default: those that a launcher's environment names. @internal */
  world?: World | null;
}

/**
 * Trains a model: prepares data, runs updates, evaluates, writes checkpoints.
 *
 * Leaving the loop stops after the current update. Aborting saves a checkpoint first.
 *
 * Where a launcher has started several processes, they train together; each yields the events, rank 0 alone writes to the run
 * directory.
 *
 * @param options - see {@link TrainOptions}; defaults may be left out
 * @returns typed events; the last one is an {@link EndEvent}
 * @throws HadalError HADAL_ERR_CONFIG, HADAL_ERR_DATA, HADAL_ERR_CHECKPOINT, HADAL_ERR_LOCKED, HADAL_ERR_IO,
 * HADAL_ERR_MEMORY, HADAL_ERR_RUN, HADAL_ERR_NUMERICS, HADAL_ERR_COMM, and HADAL_ERR_ABORTED after the checkpoint of an
 * aborted run
 */
export async function* train(
  options: TrainOptions,
  { signal, world: given, ...hooks }: TrainHooks = {},
): AsyncGenerator<TrainEvent, void> {
  // However this ends: one that has not left holds up its own process and the others.
  await using _given = given;
  const asked = resolveTrainConfig(options);
  if (isServed(asked)) return yield* trainServed(asked, given, signal);
  const { model, source } = await modelOf(asked);
  await requireSources(asked);
  await using world = given === undefined ? await joinWorld() : given;
  // Before minutes of tokenizing whose tokens nothing could train on.
  using device = openDevice(deviceOf(asked, world), { threads: threadsOf(asked, world), pinThreads: asked.pinThreads });
  const doubts = await trustDevice(device);
  using kept = new Kept();
  const task = { asked, model, source, device, doubts, hooks, signal };
  yield* inRounds(world, kept, (together) => trainRound(task, together, kept));
}

/** Processes of one host have a GPU each, where it is not said which. */
function deviceOf({ device }: Pick<TrainConfig, 'device'>, world: World | null): string {
  const isOpen = device === 'cuda' || (device === 'auto' && loadAddon().backend('cuda').devices.length > 0);
  return isOpen && world ? `cuda:${world.localRank}` : device;
}

/** Threads of the computation: processes of one host divide its processors, unless their launcher has done so. */
export function threadsOf({ threads }: Pick<TrainConfig, 'threads'>, world: World | null): number {
  const processes = envFlag('HADAL_PROCESSORS') > 0 ? 1 : (world?.localSize ?? 1);
  return threads ?? Math.max(1, Math.floor(usableProcessors() / processes));
}

/** What stays the same from round to round. */
interface Task {
  asked: TrainConfig;
  model: Model;
  source: ModelSource | null;
  device: Device;
  /** What the device gets wrong. */
  doubts: readonly string[];
  hooks: RunHooks;
  signal: AbortSignal | undefined;
}

async function* trainRound(task: Task, together: Together, kept: Kept): AsyncGenerator<TrainEvent, void> {
  const { model, source, device, hooks, signal } = task;
  const { lost, isInMemory } = await arrive(together, kept);
  const asked = await agreed(task, together);
  using directory = await openDirectory(asked, together);
  const goesOn = together.isFirst && (await directory.checkpoints()).length > 0;
  const given = goesOn ? await withEarlierSizes(asked, directory.path) : asked;
  const notes = [...task.doubts];
  notes.push(...(await differingMachines(together, `${device.threads} threads on ${device.instructionSet}`)));
  kept.offloadFile ??= openOffloadFile(given, (message) => notes.push(message));
  const dtype = given.dtype === 'auto' ? bestDType(device) : given.dtype;
  const planned = yield* prepareAndPlan({ given, model, dtype, device, signal }, together, kept);
  const { config, decisions, prepared, heldOut, plans } = planned;
  const room = roomOf(device, together.localSize);
  const memory = planMemory(model, plans, {
    gradAccumulationSteps: config.gradAccumulationSteps,
    snapshot: hasSnapshot(config),
    base: room.resident + room.growth,
    budget: config.memory.budget,
  });
  const stepConfig = stepConfigOf(config, dtype, together);
  const { progress, offloadFile } = kept;
  const stepper = kept.replaceStepper(
    (earlier) => new Stepper(device, model, stepConfig, plans, offloadFile, earlier),
    isInMemory,
  );
  const run = new Run({ config, directory, stepper, device, prepared, heldOut, source, hooks, together }, progress);
  kept.run = run;
  await together.world?.connect(device, config.dist);

  notes.push(...decisions, ...(await run.load(asked.resume)));
  await using loader = run.openLoader();
  // Not before: a run that is refused leaves what is in the directory as it was.
  await directory.writeConfig({ ...config, device: device.name, dtype, threads: device.threads });
  await run.truncateMetrics();
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
    instructionSet: run.state.instructionSet,
    dtype,
    memory,
    rank: together.rank,
    worldSize: together.size,
    notes,
  };
  if (together.round > 0) yield run.noteRound(lost, isInMemory);
  await using saver = run.openSaver();
  yield* run.updates(loader, saver, signal);
}

/** The configuration of all processes, in rank 0's directory. @throws HadalError HADAL_ERR_CONFIG where theirs differ */
async function agreed({ asked, model, device }: Task, together: Together): Promise<TrainConfig> {
  const dtype = asked.dtype === 'auto' ? bestDType(device) : asked.dtype;
  await requireAgreement(together, 'configuration', configClaims(asked, model, dtype, version));
  const out = await together.fromFirst('directory', asked.out);
  return { ...asked, out, resume: asked.resume || together.round > 0 };
}

/** Rank 0 owns it, the others look at it. */
async function openDirectory({ out, resume }: TrainConfig, together: Together): Promise<RunDirectory> {
  let own: RunDirectory | null = null;
  const open = async (): Promise<void> => {
    own = await (together.round > 0 ? RunDirectory.takeOver(out) : RunDirectory.open(out, { resume }));
  };
  try {
    await together.madeByFirst('directory opened', open);
  } catch (error) {
    (own as RunDirectory | null)?.dispose();
    throw error;
  }
  const directory = own ?? RunDirectory.ofAnother(out);
  try {
    await requireOneDirectory(together, out);
    return directory;
  } catch (error) {
    directory.dispose();
    throw error;
  }
}
