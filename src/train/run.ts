// The run around the step: state, evaluation, checkpoints, rules, events.
import { debug, envFlag } from '../core/env.js';
import type { Batch } from '../data/batch.js';
import { DataLoader } from '../data/loader.js';
import type { PreparedPart } from '../data/prepared.js';
import type { InstructionTime } from '../runtime/device.js';
import { profileTable } from '../runtime/profile.js';
import { hasUpdated, type TrainState } from './checkpoint.js';
import { explainNumerics, isNumericsFault, numericsError, writeNumericsReport } from './debug-numerics.js';
import { heldOutLoss } from './evaluation.js';
import type { CheckpointEvent, EndEvent, EvaluationEvent, RoundEvent, StepEvent, TrainEvent } from './events.js';
import { memoryInUse } from './memory.js';
import type { PreparedRun } from './prepare.js';
import { describeFinding, type Finding, type RuleAction } from './rules.js';
import type { MetricsLine } from './run-directory.js';
import { type Progress, RunState, type StateParts } from './run-state.js';
import { CheckpointSaver } from './saving.js';
import { scheduledValues } from './schedules.js';
import type { SizedConfig } from './step-config.js';
import type { UpdateInputs, UpdateResult } from './stepper.js';
import { isRoundOver } from './together.js';
import { seenByAll, Watcher } from './watch.js';

/** What a caller may hand to a run. */
export interface RunHooks {
  /** Told once where the time of a step goes: of the third of this run, when all is warm, or its last. @internal */
  onProfile?: (times: readonly InstructionTime[]) => Promise<void>;
  /** May put other micro-batches in the place of an update's: for tests that plant a fault. @internal */
  alterWindow?: (window: readonly Batch[]) => readonly Batch[];
}

/** What a run is made of. */
export interface RunParts extends StateParts {
  prepared: PreparedRun;
  heldOut: PreparedPart;
  hooks: RunHooks;
}

/** One run in progress, in one of its processes. */
export class Run {
  readonly held: RunState;
  /** Updates of this run. */
  #updates = 0;
  readonly #watcher: Watcher;
  readonly #began = performance.now();

  /** @param kept - where the state stands that the stepper holds; null: it holds none */
  constructor(
    private readonly parts: RunParts,
    kept: Progress | null,
  ) {
    this.#watcher = new Watcher(parts.config.watch);
    this.held = new RunState(parts, kept);
  }

  get progress(): Progress {
    return this.held.progress;
  }

  get state(): TrainState {
    return this.progress.state;
  }

  /** Brings all processes to one state, see {@link RunState.load}. */
  async load(resumes: boolean): Promise<string[]> {
    const notes = await this.held.load(resumes);
    this.#watcher.goOn(this.state.watch);
    return notes;
  }

  /** The batches from where the state stands. @throws HadalError HADAL_ERR_CHECKPOINT when it stands in other data */
  openLoader(): DataLoader {
    const { state } = this;
    const { config, stepper, together } = this.parts;
    const { dir: shards, sources } = this.parts.prepared.data.train;
    const loader = new DataLoader({
      ...{ shards, sources, batch: rowsAtATime(config) },
      ...{ rank: together.rank, worldSize: together.size },
      seqLen: stepper.config.seqLen,
      mtpDepth: stepper.model.mtpDepth,
      seed: config.seed,
      cursor: state.cursor as TrainState['cursor'] | undefined,
    });
    state.cursor = loader.cursor;
    return loader;
  }

  /** Says and notes that the run goes on in another round. */
  noteRound(lost: number[], isInMemory: boolean): RoundEvent {
    const { round, size } = this.parts.together;
    const { step } = this.state;
    const from = isInMemory ? 'memory' : this.held.loadedStep === null ? 'beginning' : 'checkpoint';
    this.#log({ step, round: { round, size, lost, from } });
    return { type: 'round', round, size, lost, step, from };
  }

  /** What writes the checkpoints. */
  openSaver(): CheckpointSaver {
    const { prepared, source, directory, stepper, config, together } = this.parts;
    const beside = { tokenizer: prepared.tokenizer.files, generation: source?.generation ?? null };
    const saver = new CheckpointSaver(directory, stepper, beside, config.checkpoint, together);
    if (this.held.loadedStep !== null) saver.loaded(this.held.loadedStep);
    return saver;
  }

  /** Drops what metrics.jsonl says of steps beyond the state, and of evaluations that are made once more. */
  async truncateMetrics(): Promise<void> {
    const { step } = this.state;
    const { lines } = this.progress;
    const { directory, config } = this.parts;
    const evaluates = step >= config.steps || (step === 0 && !this.progress.initial);
    const stays = (line: Record<string, unknown>) => !(evaluates && line.evalLoss !== undefined);
    // What the last update told is known: the process that wrote it may have been lost before it did.
    const isKept = (line: MetricsLine) => lines.length === 0 && stays({ ...line });
    await directory.truncateMetrics((line) => line.step < step || (line.step === step && isKept(line)));
    this.progress.lines = lines.filter(stays);
    for (const line of this.progress.lines) directory.log(line);
  }

  async *updates(
    loader: DataLoader,
    saver: CheckpointSaver,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<TrainEvent, void> {
    const { config, together } = this.parts;
    const { checkpoint } = config;
    if (this.state.step === 0 && !this.progress.initial) {
      this.progress.initial = await this.#evaluate();
      yield this.progress.initial;
    }
    yield* this.#afterUpdate(loader, saver);
    let stops = false;
    while (this.state.step < config.steps) {
      if (stops || (together.size === 1 && signal?.aborted)) {
        const saved = yield* this.#save(saver);
        throw together.common(
          'HADAL_ERR_ABORTED',
          `[train] interrupted after ${this.state.step} of ${config.steps} steps; ${saved.path} is saved, --resume goes on from it`,
        );
      }
      const { step } = this.state;
      const dueIn = checkpoint.every - (step % checkpoint.every);
      if (checkpoint.every > 0 && step + dueIn < config.steps) saver.prepare(dueIn);
      const update = await this.#update(loader, signal?.aborted ?? false);
      stops = update.stops;
      yield update.event;
      yield* this.#afterUpdate(loader, saver);
    }
    const final = await this.#evaluate();
    yield final;
    const saved = yield* this.#save(saver);
    await together.meet('end');
    yield this.#end(final, saved);
  }

  /** Does what is due after an update, unless it is done. */
  async *#afterUpdate(loader: DataLoader, saver: CheckpointSaver): AsyncGenerator<TrainEvent, void> {
    const { config } = this.parts;
    const findings = this.progress.owed;
    if (!findings) return;
    const isDue = (every: number) => every > 0 && this.state.step % every === 0 && this.state.step < config.steps;
    if (!(yield* this.#follow(findings, loader, saver))) {
      if (isDue(config.evaluation.every) && this.state.evalLoss === null) yield await this.#evaluate();
      if (isDue(config.checkpoint.every)) await saver.begin(this.state);
      yield* this.#told(saver);
    }
    this.progress.owed = null;
  }

  async #update(loader: DataLoader, stops: boolean): Promise<{ event: StepEvent; stops: boolean }> {
    const { state, progress } = this;
    const { config, stepper, hooks, together } = this.parts;
    const begin = performance.now();
    const sentBefore = together.wireBytesSent;
    const { microBatches, ...scheduled } = scheduledValues(config, state.step);
    const { balanceWeight } = config.loss;
    const batches: Batch[] = [];
    while (batches.length < microBatches) batches.push(await loader.next());
    const window = hooks.alterWindow?.(batches) ?? batches;
    const lr = scheduled.lr * this.#watcher.state.lrFactor;
    const inputs = {
      ...{ ...scheduled, balanceWeight, lr, seed: config.seed, step: state.step },
      mostMicroBatches: config.gradAccumulationSteps,
      ...this.#watcher.inputs(state.step + 1),
      stops,
    };
    const isProfiled = envFlag('HADAL_DEBUG') >= 2;
    const onProfile = ++this.#updates === 3 || state.step + 1 === config.steps ? hooks.onProfile : undefined;
    const result = await stepper.update(window, inputs, { profile: isProfiled || onProfile !== undefined });
    if (config.watch.debugNumerics && isNumericsFault(result)) await this.#explain(window, inputs, result);
    const table = () => `${profileTable(result.times)}\n\n${profileTable(result.times, 'module')}`;
    if (isProfiled) debug(2, () => `step ${state.step + 1}\n${table()}`);
    if (onProfile) {
      delete hooks.onProfile;
      await onProfile(result.times);
    }

    const { times, activations, tokens, stops: allStop, ...rest } = result;
    const { communicationMs, exposedMs, compressionMs, compressionError, ...measured } = rest;
    // Before anything is waited for: the tensors hold this update.
    state.step++;
    state.tokens += tokens;
    state.evalLoss = null;
    state.skippedSteps += Number(result.skipped);
    state.cursor = loader.cursor;
    progress.lastLoss = result.loss;
    progress.lines = [];
    if (!result.overflowed && Number.isFinite(result.loss)) progress.lastFiniteStep = state.step;
    const seen = await this.#seen(result);
    const { metrics, findings } = this.#watcher.afterStep(state.step, { ...result, ...seen }, seen.machine);
    state.watch = this.#watcher.state;
    progress.owed = findings;
    const stepMs = performance.now() - begin;
    const wireBytesSent = together.wireBytesSent - sentBefore;
    const event: StepEvent = {
      type: 'step',
      step: state.step,
      steps: config.steps,
      tokens: state.tokens,
      ...measured,
      ...metrics,
      lr,
      tokensPerSecond: (tokens / stepMs) * 1000,
      stepMs,
      ...memoryInUse(this.parts.device),
      ...(together.size > 1 && {
        world: {
          size: together.size,
          round: together.round,
          communicationMs,
          exposedMs,
          commShare: exposedMs / stepMs,
          wireBytesSent,
          compressionMs,
          compressionError,
        },
      }),
    };
    const { type, steps, ...line } = event;
    this.#log(line);
    return { event, stops: allStop };
  }

  /** What rules look at. */
  async #seen({ activations }: UpdateResult): ReturnType<typeof seenByAll> {
    const { looksAtMachine } = this.#watcher;
    const { together } = this.parts;
    const own = { machine: null, activations };
    if (together.size === 1 || !(looksAtMachine || activations)) return own;
    try {
      return await seenByAll(together, looksAtMachine, activations);
    } catch (error) {
      // The round is over, the update is not lost: it is noted as this process sees it.
      if (isRoundOver(error)) return own;
      throw error;
    }
  }

  /** Adds a line to metrics.jsonl. */
  #log(line: Record<string, unknown>): void {
    this.progress.lines.push(line);
    this.parts.directory.log(line);
  }

  /** Says which op and layer made an update's first number that is not finite. @throws HadalError HADAL_ERR_NUMERICS */
  async #explain(window: readonly Batch[], inputs: UpdateInputs, result: UpdateResult): Promise<void> {
    const { loss, gradNorm, lossScale } = result;
    const about = {
      step: this.state.step + 1,
      lastFiniteStep: this.progress.lastFiniteStep,
      loss,
      gradNorm,
      lossScale,
    };
    const { stepper, directory, together } = this.parts;
    const own = await explainNumerics(stepper, window, inputs, about);
    const reports = await together.gather('numerics', own);
    const report = reports.find((each) => each !== null);
    if (report) {
      const path = await together.madeByFirst('report', () => writeNumericsReport(directory.path, report));
      const { code, message } = numericsError(report, path);
      throw together.common(code, message);
    }
    // What overflowed under a loss scale that has fallen since, it will be tried with that.
    if (lossScale !== null) return;
    throw together.common(
      'HADAL_ERR_NUMERICS',
      `[numerics] step ${about.step}: expected finite gradients, their sum over ${window.length * together.size} micro-batches is not, while each of them is; lower the learning rate`,
    );
  }

  /** Does what rules ask for. @returns whether the run went back */
  async *#follow(
    findings: readonly Finding[],
    loader: DataLoader,
    saver: CheckpointSaver,
  ): AsyncGenerator<TrainEvent, boolean> {
    const { step } = this.state;
    for (const finding of findings) yield { type: 'warning', step, message: describeFinding(finding), finding };
    const asking = (action: RuleAction) => findings.find((finding) => finding.action === action);
    const [stop, rollback] = [asking('stop'), asking('rollback')];
    if (stop) {
      const { path } = yield* this.#save(saver);
      throw this.parts.together.common(
        'HADAL_ERR_RUN',
        `[watch] step ${step}: ${describeFinding(stop)}; ${path} is saved, --resume goes on from it`,
      );
    }
    if (!rollback) return false;
    await saver.settle();
    yield* this.#told(saver);
    yield* this.#rollBack(rollback, loader);
    saver.loaded(this.state.step);
    return true;
  }

  /** Back to the newest checkpoint, or to the beginning where there is none; the data that was read stays behind. */
  async *#rollBack(why: Finding, loader: DataLoader): AsyncGenerator<TrainEvent, void> {
    const { step: from } = this.state;
    const notes = await this.held.loadAnew(true);
    const { state, progress } = this;
    const { config, directory, together } = this.parts;
    const { step } = state;
    for (const message of notes) yield { type: 'warning', step, message };
    state.cursor = loader.cursor;
    this.#watcher.rollBack(state.watch);
    state.watch = this.#watcher.state;
    progress.rollbacks = { to: step, count: progress.rollbacks.to === step ? progress.rollbacks.count + 1 : 1 };
    const { maxRollbacks } = config.watch;
    if (progress.rollbacks.count > maxRollbacks) {
      throw together.common(
        'HADAL_ERR_RUN',
        `[watch] step ${from}: ${describeFinding(why)}, ${progress.rollbacks.count} times since step ${step}, expected at most ${maxRollbacks} (watch.maxRollbacks); lower the learning rate or look at the data, then --resume`,
      );
    }
    await directory.truncateMetrics((line) => line.step <= step);
    const { metric, value } = why;
    directory.log({ step, rollback: { from, metric, value } });
    yield { type: 'rollback', from, step };
  }

  async #evaluate(): Promise<EvaluationEvent> {
    const { stepper, heldOut, config, together } = this.parts;
    const rows = { shards: heldOut.dir, batch: rowsAtATime(config), batches: config.evaluation.batches };
    const measure = () => heldOutLoss(stepper, rows, together);
    const { evalLoss, tokens } = await measure();
    // Before the first update there are no means.
    const { emaDecay } = stepper.config.optimizer;
    const hasMeans = emaDecay !== null && hasUpdated(this.state);
    const means = hasMeans ? await stepper.withMeans(measure) : null;
    this.state.evalLoss = evalLoss;
    const bytesPerToken = heldOut.textBytes / heldOut.tokens;
    const event = {
      type: 'evaluation',
      step: this.state.step,
      evalLoss,
      bitsPerByte: evalLoss / Math.LN2 / bytesPerToken,
      ...(means && { emaEvalLoss: means.evalLoss }),
      tokens,
    } as const;
    const { type, ...line } = event;
    this.#log(line);
    return event;
  }

  /** Saves what there is now, and waits until it stands. */
  async *#save(saver: CheckpointSaver): AsyncGenerator<TrainEvent, CheckpointEvent> {
    await saver.settle();
    yield* this.#told(saver);
    const saved = await saver.save(this.state);
    yield saved;
    return saved;
  }

  /** What has happened beside the steps. */
  *#told(saver: CheckpointSaver): Generator<TrainEvent, void> {
    yield* saver.takeEvents();
    for (const message of this.parts.directory.takeWarnings())
      yield { type: 'warning', step: this.state.step, message };
  }

  #end(final: EvaluationEvent, { path }: CheckpointEvent): EndEvent {
    return {
      type: 'end',
      runDir: this.parts.directory.path,
      checkpoint: path,
      steps: this.state.step,
      tokens: this.state.tokens,
      seconds: (performance.now() - this.#began) / 1000,
      loss: this.progress.lastLoss ?? Number.NaN,
      evalLoss: final.evalLoss,
      bitsPerByte: final.bitsPerByte,
      initialEvalLoss: this.progress.initial?.evalLoss ?? null,
      skippedSteps: this.state.skippedSteps,
    };
  }
}

/** Rows that all processes compute at a time. */
const rowsAtATime = ({ batch, gradAccumulationSteps }: SizedConfig): number => batch / gradAccumulationSteps;
