// A model in training on a device: its state, its programs, and one call an update.
import { HadalError, invariant } from '../core/errors.js';
import { formatShape } from '../core/shape.js';
import type { Batch } from '../data/batch.js';
import { type Model, parametersOf } from '../models/model.js';
import type { Parameter } from '../nn/parameters.js';
import { withEma } from '../optim/ema.js';
import { lossScaleSlot } from '../optim/loss-scale.js';
import { isWatchedInput, watchPrefix } from '../passes/watch.js';
import type { BackingFile } from '../runtime/backing-file.js';
import type { Device, InstructionTime, Program, RunTimes, ScheduleEntry } from '../runtime/device.js';
import type { TensorSpec } from '../runtime/plan.js';
import type { Tensor } from '../runtime/tensor.js';
import type { CompileTask } from './compile-worker.js';
import { countNames } from './contribution.js';
import type { Plans } from './planning.js';
import { slotKinds } from './slots.js';
import { type Activation, statisticsOf } from './statistics.js';
import { metricNames, type StepConfig } from './step.js';

/** What varies from update to update. */
export interface UpdateInputs {
  lr: number;
  /** λ of the multi-token-prediction loss. */
  mtpWeight: number;
  /** α of the balance loss. */
  balanceWeight: number;
  /** γ of the router bias. */
  routerBiasSpeed: number;
  /** Key of the update's random numbers. */
  seed: number;
  step: number;
  /** Micro-batches of the run's largest updates, for each of which there is a key; default: those of this one. */
  mostMicroBatches?: number;
  /** Updates whose gradients have a greater norm are left out; default: none. */
  skipAbove?: number;
  /** Whether the outputs of layers are measured; default: no. */
  isWatched?: boolean;
  /** Whether this process wants all to stop after the update; default: no. */
  stops?: boolean;
}

/** What an update tells. */
export interface UpdateResult {
  /** Mean cross-entropy of the main loss. */
  loss: number;
  mtpLoss: number | null;
  balanceLoss: number | null;
  /** Global norm of the gradients, before and after clipping. */
  gradNorm: number;
  clippedNorm: number;
  skipped: boolean;
  /** Whether a gradient was not finite. */
  overflowed: boolean;
  /** What the loss was multiplied with; null without loss scaling. */
  lossScale: number | null;
  /** What compression left of the gradients over what they are, both in norm; null where it keeps nothing of it. */
  compressionError: number | null;
  /** Tokens that all processes trained on. */
  tokens: number;
  /** Whether any process wants all to stop. */
  stops: boolean;
  /** Busiest expert's load over the mean, the worst layer's. */
  expertImbalance: number | null;
  /** Outputs of layers, in their order; null where they were not measured. */
  activations: Activation[] | null;
  /** Milliseconds that collectives took, and of these what the computation waited for. */
  communicationMs: number;
  exposedMs: number;
  /** That compressing gradients took of the computation. */
  compressionMs: number;
  times: InstructionTime[];
}

/** Slots of what programs update beside the parameters: moments, counters, the loss scale. Checkpoints hold them. */
export function stateSlots(model: Model, plans: Plans): Map<string, TensorSpec> {
  const kindOf = slotKinds(model);
  const found = new Map<string, TensorSpec>();
  for (const { slots, outputs } of [plans.whole, plans.first, plans.next, plans.last, plans.apply].filter(
    (plan) => plan !== undefined,
  )) {
    const made = new Set(outputs.map(({ name }) => name));
    for (const spec of slots) {
      const { name } = spec;
      if (!made.has(name) && kindOf(name) === 'state') found.set(name, spec);
    }
  }
  return found;
}

/** Arrays by the names of a program's inputs; those that it does not have do not matter. */
export type ProgramInputs = Record<string, NodeJS.TypedArray>;

type Metrics = Record<(typeof metricNames)[number], number>;

/** A model in training. Owns its tensors. */
export class Stepper implements Disposable {
  readonly parameters: ReadonlyMap<string, Parameter>;
  /** Parameters, moments, counters and sums, by slot name. */
  readonly tensors = new Map<string, Tensor>();
  /** Names of the slots that a checkpoint holds beside the parameters. */
  readonly stateSlots: readonly string[];
  /** What programs work on. */
  #bound: ReadonlyMap<string, Tensor> = this.tensors;
  readonly #programs: Partial<Record<CompileTask['program'], Program>> = {};
  /** Whether the state is no longer as it was allocated. */
  #isUsed = false;

  constructor(
    readonly device: Device,
    readonly model: Model,
    readonly config: StepConfig,
    plans: Plans,
    /** In which slots lie that are planned so. */
    file: BackingFile | null = null,
    /** What another stepper of this device no longer needs; tensors that fit are taken over, and out of it. */
    earlier: Map<string, Tensor> = new Map(),
  ) {
    this.parameters = parametersOf(model);
    this.stateSlots = [...stateSlots(model, plans).keys()];
    device.reserveArena(Math.max(...Object.values(plans).map(({ arenaBytes }) => arenaBytes)));
    for (const [name, plan] of Object.entries(plans)) {
      const program = device.load(plan);
      this.#programs[name as CompileTask['program']] = program;
      for (const { name: slot, shape, dtype, offloaded } of program.slots) {
        if (this.tensors.has(slot)) continue;
        invariant(!offloaded || file, `slot '${slot}' is planned to lie in a file, there is none`);
        const taken = taking(earlier, { name: slot, shape, dtype });
        if (taken) this.#isUsed = true;
        this.tensors.set(slot, taken ?? device.allocate(shape, dtype, { file: offloaded ? file : null }));
      }
    }
  }

  /** Gives state its beginning: zeros, as it is allocated, and the loss scale. To be called before it is loaded. */
  async begin(): Promise<void> {
    const { lossScale } = this.config;
    const used = this.#isUsed ? this.stateSlots : [];
    for (const tensor of used.map((name) => this.#tensor(name))) await tensor.write(new Uint8Array(tensor.bytes));
    this.#isUsed = false;
    if (lossScale) await this.#tensor(lossScaleSlot).write(Float32Array.of(lossScale.initial));
  }

  /** Fills the parameters with their random beginning. */
  async initialize(seed: number): Promise<void> {
    await this.begin();
    await this.device.run([this.#entry('initialization', { key: Int32Array.of(seed, 0) })]);
    await this.refreshWorkingCopies();
  }

  /** To be called after the parameters were written from outside. */
  async refreshWorkingCopies(): Promise<void> {
    if (this.#programs['working-copies']) await this.device.run([this.#entry('working-copies', {})]);
  }

  /**
   * One update on the rows of all micro-batches together: every loss term is a mean over the whole window.
   *
   * @throws HadalError HADAL_ERR_RUN naming op and layer when the data do not fit the model
   */
  async update(window: readonly Batch[], inputs: UpdateInputs, { profile = false } = {}): Promise<UpdateResult> {
    const given = this.inputsOf(window, inputs);
    this.#isUsed = true;
    const schedule =
      this.#programs.whole && window.length === 1
        ? [this.#entry(this.#variant('whole', inputs), given[0] as ProgramInputs)]
        : this.#accumulating(given, inputs);
    return this.told(window, inputs, await this.device.run(schedule, { profile }));
  }

  /** What the programs of an update have left to tell. */
  protected async told(window: readonly Batch[], inputs: UpdateInputs, times: RunTimes): Promise<UpdateResult> {
    const { mtpWeight, balanceWeight, isWatched = false } = inputs;
    const { depth, routers } = this.#terms;
    const metrics = await this.#metrics();
    const { tokens, stops } = await this.#counted(window, inputs);
    return {
      loss: metrics.main,
      mtpLoss: depth > 0 && mtpWeight > 0 ? metrics.mtp / mtpWeight : null,
      balanceLoss: routers > 0 && balanceWeight > 0 ? metrics.balance / balanceWeight : null,
      gradNorm: metrics.gradNorm,
      clippedNorm: metrics.clippedNorm,
      skipped: metrics.isSound === 0,
      overflowed: metrics.allFinite === 0,
      lossScale: this.config.lossScale && metrics.lossScale,
      ...{ tokens, stops, compressionError: await this.#compressionError(metrics) },
      expertImbalance: await this.#expertImbalance(),
      activations: isWatched ? await this.#activations() : null,
      communicationMs: times.communicationMs,
      exposedMs: times.exposedMs,
      compressionMs: times.compressionMs,
      times: times.instructions,
    };
  }

  /** Runs one of its programs alone. */
  async runProgram(name: CompileTask['program'], inputs: ProgramInputs): Promise<RunTimes> {
    this.#isUsed = true;
    return this.device.run([this.#entry(name, inputs)]);
  }

  /** Gradients of several micro-batches are summed; what follows is a program of its own, or the last one's. */
  #accumulating(given: readonly ProgramInputs[], inputs: UpdateInputs): ScheduleEntry[] {
    const last = this.#programs.last && this.#variant('last', inputs);
    const entries = given.map((micro, i) =>
      this.#entry(i === 0 ? 'first' : last && i === given.length - 1 ? last : 'next', micro),
    );
    return last ? entries : [...entries, this.#entry('apply', given[0] as ProgramInputs)];
  }

  /** Compression may begin later than training. */
  #variant(part: 'whole' | 'last', { step }: UpdateInputs): CompileTask['program'] {
    const uncompressed = `${part}-uncompressed` as const;
    const isTooEarly = step < (this.config.dist?.compression.startStep ?? 0);
    return isTooEarly && this.#programs[uncompressed] ? uncompressed : part;
  }

  /** What was counted of an update over all processes. */
  async #counted(
    window: readonly Batch[],
    { stops = false }: UpdateInputs,
  ): Promise<{ tokens: number; stops: boolean }> {
    if (!this.config.dist) return { tokens: total(window, ({ counts }) => counts.tokens), stops };
    const counted = await this.#tensor('counts').toFloat32();
    const of = (name: (typeof countNames)[number]) => counted[countNames.indexOf(name)] as number;
    return { tokens: of('tokens'), stops: of('stop') > 0 };
  }

  /** What programs read for each micro-batch of a window, by name. @param dist - null: of programs for this process alone */
  inputsOf(window: readonly Batch[], inputs: UpdateInputs, dist = this.config.dist): ProgramInputs[] {
    const { lr, mtpWeight, balanceWeight, routerBiasSpeed, skipAbove = Number.POSITIVE_INFINITY, isWatched } = inputs;
    const { depth, routers } = this.#terms;
    // Where processes train together, the program divides by what all of them have.
    const own = (count: (batch: Batch) => number) => (dist ? 1 : Math.max(1, total(window, count)));
    const one = (x: number) => Float32Array.of(x);
    const mtpScales = Array.from(
      { length: depth },
      (_, k) => mtpWeight / (depth * own((batch) => batch.counts.mtpLabels[k] ?? 0)),
    );
    const common = {
      mainScale: one(1 / own((batch) => batch.counts.labels)),
      balanceScale: one(balanceWeight / (own((batch) => batch.batch) * Math.max(1, routers))),
      ...(dist && { counts: countsOf(window, inputs, depth) }),
      ...Object.fromEntries(mtpScales.map((scale, k) => [`mtpScale${k + 1}`, one(scale)])),
      ...{ lr: one(lr), routerBiasSpeed: one(routerBiasSpeed), skipAbove: one(skipAbove) },
      [isWatchedInput]: Int32Array.of(Number(isWatched ?? false)),
    };
    const { rank, worldSize } = dist ?? { rank: 0, worldSize: 1 };
    const firstKey = inputs.step * (inputs.mostMicroBatches ?? window.length);
    return window.map((batch, i) => ({
      ...batchArrays(batch),
      ...common,
      key: Int32Array.of(inputs.seed, (firstKey + i) * worldSize + rank),
    }));
  }

  /** How many terms of each kind the loss has. */
  get #terms(): { depth: number; routers: number } {
    const routers = [...this.tensors.keys()].filter((name) => name.startsWith('load/')).length;
    return { depth: this.model.mtpDepth, routers };
  }

  /**
   * Lets evaluations see the running means of the weights, which `optimizer.emaDecay` keeps, as the weights. Their copies in
   * 16 bits are made in the place of the weights' own, and those made anew afterwards.
   */
  async withMeans<T>(body: () => Promise<T>): Promise<T> {
    this.#bound = withEma(this.tensors);
    try {
      await this.refreshWorkingCopies();
      return await body();
    } finally {
      this.#bound = this.tensors;
      await this.refreshWorkingCopies();
    }
  }

  /** Summed cross-entropy of a batch, nats. */
  async evaluate(batch: Batch): Promise<number> {
    await this.device.run([this.#entry('evaluation', batchArrays(batch))]);
    return (await this.#tensor('loss').toFloat32())[0] as number;
  }

  async #compressionError({ gradNorm, lossScale }: Metrics): Promise<number | null> {
    const residual = (await this.tensors.get('residualNorm')?.toFloat32())?.[0];
    const { worldSize = 1 } = this.config.dist ?? {};
    // This process's, taken for an average one.
    return residual === undefined ? null : (residual * worldSize) / (gradNorm * lossScale);
  }

  async #metrics(): Promise<Metrics> {
    const numbers = await this.#tensor('metrics').toFloat32();
    return Object.fromEntries(metricNames.map((name, i) => [name, numbers[i]])) as Metrics;
  }

  async #activations(): Promise<Activation[]> {
    const measured = [...this.tensors].filter(([name]) => name.startsWith(watchPrefix));
    return Promise.all(
      measured.map(async ([name, tensor]) => ({
        where: name.slice(watchPrefix.length),
        ...statisticsOf(await tensor.toFloat32()),
      })),
    );
  }

  async #expertImbalance(): Promise<number | null> {
    let worst: number | null = null;
    for (const [name, tensor] of this.tensors) {
      if (!name.startsWith('load/')) continue;
      const loads = await tensor.toFloat32();
      const mean = loads.reduce((sum, load) => sum + load, 0) / loads.length;
      worst = Math.max(worst ?? 0, mean > 0 ? Math.max(...loads) / mean : 1);
    }
    return worst;
  }

  #tensor(name: string): Tensor {
    return this.tensors.get(name) as Tensor;
  }

  #entry(name: CompileTask['program'], inputs: ProgramInputs): ScheduleEntry {
    const program = this.#programs[name];
    if (!program) throw new HadalError('HADAL_ERR_INTERNAL', `[train] no program '${name}' was planned for this run`);
    return { program, name, slots: Object.fromEntries(this.#bound), inputs };
  }

  dispose(): void {
    for (const tensor of this.tensors.values()) tensor.dispose();
    this.tensors.clear();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** Takes a tensor out of others. */
function taking(from: Map<string, Tensor>, { name, shape, dtype }: TensorSpec): Tensor | null {
  const tensor = from.get(name);
  if (!tensor || tensor.dtype !== dtype || formatShape(tensor.shape) !== formatShape(shape)) return null;
  from.delete(name);
  return tensor;
}

const total = (window: readonly Batch[], count: (batch: Batch) => number): number =>
  window.reduce((sum, batch) => sum + count(batch), 0);

/** What {@link countNames} and the MTP depths name, of this process's rows. */
function countsOf(window: readonly Batch[], { stops = false }: UpdateInputs, depth: number): Float32Array {
  const counted = {
    rows: total(window, usedRows),
    tokens: total(window, ({ counts }) => counts.tokens),
    stop: Number(stops),
    labels: total(window, ({ counts }) => counts.labels),
  };
  const mtpLabels = Array.from({ length: depth }, (_, k) => total(window, ({ counts }) => counts.mtpLabels[k] ?? 0));
  return Float32Array.from([...countNames.map((name) => counted[name]), ...mtpLabels]);
}

/** Rows that are not all padding. */
const usedRows = ({ batch, seqLen, docIds }: Batch): number =>
  Array.from({ length: batch }, (_, row) => row).filter((row) => (docIds[row * seqLen] as number) >= 0).length;

/** A batch's arrays by the names that programs read. */
function batchArrays(batch: Batch): Record<string, Int32Array> {
  const { tokens, positions, docIds, labels } = batch;
  const numbered = (name: string, arrays: readonly Int32Array[]) =>
    arrays.map((array, k) => [`${name}${k + 1}`, array]);
  return {
    tokens,
    positions,
    docIds,
    labels,
    ...Object.fromEntries([...numbered('mtpTokens', batch.mtpTokens), ...numbered('mtpLabels', batch.mtpLabels)]),
  };
}
