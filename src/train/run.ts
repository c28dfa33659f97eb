// The run around the step: state, evaluation, checkpoints, rules, events.
import { loadAddon } from '../addon/addon.js';
import { debug, envFlag } from '../core/env.js';
import { HadalError } from '../core/errors.js';
import type { Batch } from '../data/batch.js';
import { DataLoader, evalBatches } from '../data/loader.js';
import type { PreparedPart } from '../data/prepared.js';
import type { Device, InstructionTime } from '../runtime/device.js';
import { profileTable } from '../runtime/profile.js';
import { loadParameters, type ModelSource } from '../session/model-source.js';
import { hasUpdated, loadNewestCheckpoint, type TrainState } from './checkpoint.js';
import { explainNumerics, isNumericsFault, numericsError, writeNumericsReport } from './debug-numerics.js';
import type { CheckpointEvent, EndEvent, EvaluationEvent, StepEvent, TrainEvent } from './events.js';
import { memoryInUse } from './memory.js';
import type { PreparedRun } from './prepare.js';
import { describeFinding, type Finding, type RuleAction } from './rules.js';
import type { RunDirectory } from './run-directory.js';
import { CheckpointSaver } from './saving.js';
import { scheduledValues } from './schedules.js';
import type { SizedConfig } from './step-config.js';
import type { Stepper, UpdateInputs, UpdateResult } from './stepper.js';
import { nothingWatched, Watcher } from './watch.js';

/** What a caller may hand to a run. */
export interface RunHooks {
  /** Told once where the time of a step goes: of the third of this run, when all is warm, or its last. @internal */
  onProfile?: (times: readonly InstructionTime[]) => Promise<void>;
  /** May put other micro-batches in the place of an update's: for tests that plant a fault. @internal */
  alterWindow?: (window: readonly Batch[]) => readonly Batch[];
}

/** One run in progress. */
export class Run {
  state: TrainState;
  #last: UpdateResult | null = null;
  #initial: EvaluationEvent | null = null;
  /** Step of the checkpoint that it goes on from. */
  #loadedStep: number | null = null;
  /** Updates of this run. */
  #updates = 0;
  /** The last one whose numbers were finite. */
  #lastFiniteStep: number | null = null;
  /** The checkpoint that the run last went back to, and how often in a row. */
  #rollbacks = { to: -1, count: 0 };
  readonly #watcher: Watcher;
  readonly #began = performance.now();

  constructor(
    readonly config: SizedConfig,
    readonly directory: RunDirectory,
    readonly stepper: Stepper,
    readonly device: Device,
    readonly prepared: PreparedRun,
    readonly heldOut: PreparedPart,
    /** Where the weights come from, null where they are random. */
    readonly source: ModelSource | null,
    private readonly hooks: RunHooks,
  ) {
    this.#watcher = new Watcher(config.watch);
    this.state = this.#beginning();
  }

  /** Where a run stands before its first update. */
  #beginning(): TrainState {
    return {
      step: 0,
      tokens: 0,
      skippedSteps: 0,
      evalLoss: null,
      seed: this.config.seed,
      cursor: undefined as never, // the loader's, set in openLoader()
      watch: nothingWatched,
      threads: this.device.threads,
      instructionSet: loadAddon().features().isa,
      dtype: this.stepper.config.precision.dtype,
    };
  }

  /** Fills the model: from the newest checkpoint, a directory, or at random. Returns what the user should know. */
  async load(resumes = this.config.resume): Promise<string[]> {
    const { config, stepper, directory } = this;
    const notes: string[] = [];
    await stepper.begin();
    const found = resumes ? await loadNewestCheckpoint(directory, stepper, (message) => notes.push(message)) : null;
    if (found) {
      const { threads, instructionSet, dtype } = this.state;
      const bitsOf = (state: TrainState) => `${state.threads} threads on ${state.instructionSet}, ${state.dtype}`;
      if (bitsOf(found) !== bitsOf(this.state)) {
        notes.push(
          `the checkpoint was made with ${bitsOf(found)}, this run has ${bitsOf(this.state)}: it goes on, but not bit for bit`,
        );
      }
      this.state = { ...found, threads, instructionSet, dtype };
      this.#loadedStep = found.step;
      this.#watcher.goOn(found.watch);
    } else if (this.source) {
      notes.push(...(await loadParameters(this.source, stepper.tensors, stepper.model)));
    } else {
      await stepper.initialize(config.seed);
      return notes;
    }
    await stepper.refreshWorkingCopies();
    return notes;
  }

  /** The batches from where the state stands. @throws HadalError HADAL_ERR_CHECKPOINT when it stands in other data */
  openLoader(): DataLoader {
    const { config, state, stepper } = this;
    const loader = new DataLoader({
      shards: this.prepared.data.train.dir,
      sources: this.prepared.data.train.sources,
      batch: stepper.config.batch,
      seqLen: stepper.config.seqLen,
      mtpDepth: stepper.model.mtpDepth,
      seed: config.seed,
      cursor: state.cursor as TrainState['cursor'] | undefined,
    });
    state.cursor = loader.cursor;
    return loader;
  }

  /** What writes the checkpoints. */
  openSaver(): CheckpointSaver {
    const beside = { tokenizer: this.prepared.tokenizer.files, generation: this.source?.generation ?? null };
    const saver = new CheckpointSaver(this.directory, this.stepper, beside, this.config.checkpoint);
    if (this.#loadedStep !== null) saver.loaded(this.#loadedStep);
    return saver;
  }

  /** Drops what metrics.jsonl says of steps beyond the state, and of evaluations that are made once more. */
  async truncateMetrics(): Promise<void> {
    const { step } = this.state;
    const evaluates = step === 0 || step >= this.config.steps;
    await this.directory.truncateMetrics(
      (line) => line.step < step || (line.step === step && !(evaluates && line.evalLoss !== undefined)),
    );
  }

  async *updates(
    loader: DataLoader,
    saver: CheckpointSaver,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<TrainEvent, void> {
    const { config } = this;
    const { evaluation, checkpoint } = config;
    if (this.state.step === 0) {
      this.#initial = await this.#evaluate();
      yield this.#initial;
    }
    const isDue = (every: number) => every > 0 && this.state.step % every === 0 && this.state.step < config.steps;
    while (this.state.step < config.steps) {
      if (signal?.aborted) {
        const saved = yield* this.#save(saver);
        throw new HadalError(
          'HADAL_ERR_ABORTED',
          `[train] interrupted after ${this.state.step} of ${config.steps} steps; ${saved.path} is saved, --resume goes on from it`,
        );
      }
      const { step } = this.state;
      const dueIn = checkpoint.every - (step % checkpoint.every);
      if (checkpoint.every > 0 && step + dueIn < config.steps) saver.prepare(dueIn);
      const { event, findings } = await this.#update(loader);
      yield event;
      if (yield* this.#follow(findings, loader, saver)) continue;
      if (isDue(evaluation.every)) yield await this.#evaluate();
      if (isDue(checkpoint.every)) await saver.begin(this.state);
      yield* this.#told(saver);
    }
    const final = await this.#evaluate();
    yield final;
    const saved = yield* this.#save(saver);
    yield this.#end(final, saved);
  }

  async #update(loader: DataLoader): Promise<{ event: StepEvent; findings: Finding[] }> {
    const { config, state, stepper, hooks } = this;
    const begin = performance.now();
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

    const { times, activations, tokens, stops, ...measured } = result;
    state.step++;
    state.tokens += tokens;
    state.evalLoss = null;
    state.skippedSteps += Number(result.skipped);
    state.cursor = loader.cursor;
    this.#last = result;
    if (!result.overflowed && Number.isFinite(result.loss)) this.#lastFiniteStep = state.step;
    const { metrics, findings } = this.#watcher.afterStep(state.step, result);
    state.watch = this.#watcher.state;
    const stepMs = performance.now() - begin;
    const event = {
      type: 'step',
      step: state.step,
      steps: config.steps,
      tokens: state.tokens,
      ...measured,
      ...metrics,
      lr,
      tokensPerSecond: (tokens / stepMs) * 1000,
      stepMs,
      ...memoryInUse(),
    } as const;
    const { type, steps, ...line } = event;
    this.directory.log(line);
    return { event, findings };
  }

  /** Says which op and layer made an update's first number that is not finite. @throws HadalError HADAL_ERR_NUMERICS */
  async #explain(window: readonly Batch[], inputs: UpdateInputs, result: UpdateResult): Promise<void> {
    const { loss, gradNorm, lossScale } = result;
    const about = { step: this.state.step + 1, lastFiniteStep: this.#lastFiniteStep, loss, gradNorm, lossScale };
    const report = await explainNumerics(this.stepper, window, inputs, about);
    if (report) throw numericsError(report, await writeNumericsReport(this.directory.path, report));
    // What overflowed under a loss scale that has fallen since, it will be tried with that.
    if (lossScale !== null) return;
    throw new HadalError(
      'HADAL_ERR_NUMERICS',
      `[numerics] step ${about.step}: expected finite gradients, their sum over ${window.length} micro-batches is not, while each of them is; lower the learning rate`,
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
      throw new HadalError(
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
    this.state = this.#beginning();
    const notes = await this.load(true);
    const { state, config, directory } = this;
    const { step } = state;
    for (const message of notes) yield { type: 'warning', step, message };
    state.cursor = loader.cursor;
    this.#watcher.rollBack(state.watch);
    state.watch = this.#watcher.state;
    this.#rollbacks = { to: step, count: this.#rollbacks.to === step ? this.#rollbacks.count + 1 : 1 };
    const { maxRollbacks } = config.watch;
    if (this.#rollbacks.count > maxRollbacks) {
      throw new HadalError(
        'HADAL_ERR_RUN',
        `[watch] step ${from}: ${describeFinding(why)}, ${this.#rollbacks.count} times since step ${step}, expected at most ${maxRollbacks} (watch.maxRollbacks); lower the learning rate or look at the data, then --resume`,
      );
    }
    await directory.truncateMetrics((line) => line.step <= step);
    const { metric, value } = why;
    directory.log({ step, rollback: { from, metric, value } });
    yield { type: 'rollback', from, step };
  }

  async #evaluate(): Promise<EvaluationEvent> {
    const { evalLoss, tokens } = await this.#heldOutLoss();
    // Before the first update there are no means.
    const { emaDecay } = this.stepper.config.optimizer;
    const hasMeans = emaDecay !== null && hasUpdated(this.state);
    const means = hasMeans ? await this.stepper.withMeans(() => this.#heldOutLoss()) : null;
    this.state.evalLoss = evalLoss;
    const bytesPerToken = this.heldOut.textBytes / this.heldOut.tokens;
    const event = {
      type: 'evaluation',
      step: this.state.step,
      evalLoss,
      bitsPerByte: evalLoss / Math.LN2 / bytesPerToken,
      ...(means && { emaEvalLoss: means.evalLoss }),
      tokens,
    } as const;
    const { type, ...line } = event;
    this.directory.log(line);
    return event;
  }

  /** Mean cross-entropy of held-out text, in the documents' own order. */
  async #heldOutLoss(): Promise<{ evalLoss: number; tokens: number }> {
    const { batch, seqLen } = this.stepper.config;
    let nats = 0;
    let tokens = 0;
    let batches = 0;
    // Packed here, in a hundredth of the time that their computation takes; starting a worker takes longer.
    for await (const rows of evalBatches({ shards: this.heldOut.dir, batch, seqLen, threads: 0 })) {
      nats += await this.stepper.evaluate(rows);
      tokens += rows.counts.labels;
      if (++batches === this.config.evaluation.batches) break;
    }
    return { evalLoss: nats / Math.max(1, tokens), tokens };
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
    for (const message of this.directory.takeWarnings()) yield { type: 'warning', step: this.state.step, message };
  }

  #end(final: EvaluationEvent, { path }: CheckpointEvent): EndEvent {
    return {
      type: 'end',
      runDir: this.directory.path,
      checkpoint: path,
      steps: this.state.step,
      tokens: this.state.tokens,
      seconds: (performance.now() - this.#began) / 1000,
      loss: this.#last?.loss ?? Number.NaN,
      evalLoss: final.evalLoss,
      bitsPerByte: final.bitsPerByte,
      initialEvalLoss: this.#initial?.evalLoss ?? null,
      skippedSteps: this.state.skippedSteps,
    };
  }
}
