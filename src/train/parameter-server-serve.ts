// The server of a run: has the weights and the optimizer's state, and is the run to everybody else: its directory, events,
// evaluations and checkpoints are those of a run of one process.

import { HadalError } from '../core/errors.js';
import { formatBytes } from '../core/format.js';
import { usableProcessors } from '../core/processors.js';
import { reported } from '../core/progress.js';
import type { Batch } from '../data/batch.js';
import { ServerNode, type ServerNumbers } from '../dist/parameter-server/server-node.js';
import { parameterCounts } from '../models/model.js';
import { bestDType } from '../runtime/best-dtype.js';
import { compile } from '../runtime/compile.js';
import { openDevice, type Program } from '../runtime/device.js';
import type { Plan, TensorSpec } from '../runtime/plan.js';
import type { Tensor } from '../runtime/tensor.js';
import type { TrainConfig } from './config.js';
import { withEarlierSizes } from './earlier-sizes.js';
import type { PrepareEvent, TrainEvent, WarningEvent } from './events.js';
import { fitToMemory } from './fit.js';
import { hasSnapshot, planMemory } from './memory.js';
import { modelOf } from './model-of.js';
import { microBatchesBefore, readAll, type ServedRun, type ServerAddress } from './parameter-server-run.js';
import {
  bytesOfAll,
  contributionsIn,
  copiesIn,
  type PushDType,
  pushed,
  traceNorm,
  traceServerUpdate,
  traceSum,
} from './parameter-server-step.js';
import { Planner, type Plans } from './planning.js';
import { type PreparedRun, prepareRun, requireSources } from './prepare.js';
import { roomOf } from './room.js';
import { Run } from './run.js';
import { RunDirectory } from './run-directory.js';
import type { StepConfig } from './step.js';
import { type SizedConfig, stepConfigOf } from './step-config.js';
import { Stepper, type UpdateInputs, type UpdateResult } from './stepper.js';
import { Together } from './together.js';

/** Serves until every update is made. @throws HadalError as `train` does */
export async function* serve(
  given: TrainConfig,
  { host, port, token }: ServerAddress,
  signal: AbortSignal | undefined,
): AsyncGenerator<TrainEvent, void> {
  // What layers put out is not known here.
  const asked = { ...given, watch: { ...given.watch, activationsEvery: 0 } };
  const { model, source } = await modelOf(asked);
  await requireSources(asked);
  const threads = asked.threads ?? usableProcessors();
  using device = openDevice(asked.device, { threads, pinThreads: asked.pinThreads });
  using directory = await RunDirectory.open(asked.out, { resume: asked.resume });
  const goesOn = (await directory.checkpoints()).length > 0;
  const sized = goesOn ? await withEarlierSizes(asked, directory.path) : asked;
  const dtype = sized.dtype === 'auto' ? bestDType(device) : sized.dtype;
  await using planner = new Planner(model, device.target);
  yield { type: 'prepare', phase: 'program', done: 0, total: 0 };
  const { config, decisions } = await fitToMemory(sized, planner, dtype, roomOf(device, 1));
  const step = stepConfigOf(config, dtype);
  const planning = planServer(planner, step);
  planning.catch(() => {}); // reported where it is awaited
  const prepared = yield* reported<PrepareEvent, PreparedRun>(
    (onEvent, stop) => prepareRun(config, model.vocabSize, { signal: stop, onEvent }),
    signal,
  );
  const { heldOut } = prepared.data;
  if (!heldOut) {
    throw new HadalError(
      'HADAL_ERR_DATA',
      '[train] expected at least two documents, one of them for evaluation; give more data or a larger data.heldOut',
    );
  }
  const { plans, contributions, changing } = await planning;
  yield { type: 'prepare', phase: 'program', done: 0, total: 1 };
  const room = roomOf(device, 1);
  const memory = planMemory(model, plans, {
    gradAccumulationSteps: config.gradAccumulationSteps,
    snapshot: hasSnapshot(config),
    base: room.resident + room.growth,
    budget: config.memory.budget,
  });

  using stepper = new ServerStepper(device, model, step, plans);
  using numbers = new Numbers(stepper, contributions, changing, config.dist.server.pushDtype);
  const run = new Run(
    {
      ...{ config, directory, stepper, device, prepared, heldOut, source, hooks: {} },
      together: new Together(null),
    },
    null,
  );
  const notes = [...decisions, ...(await run.load(config.resume))];
  await using loader = run.openLoader();
  await directory.writeConfig({ ...config, device: device.name, dtype, threads: device.threads });
  await run.truncateMetrics();

  const { step: start, cursor } = run.state;
  const { documents, tokensPerEpoch, token: at } = cursor;
  const notices: string[] = [];
  const ending = new AbortController();
  await using node = await ServerNode.open({
    ...{ host, port, token, numbers },
    payloadBytes: numbers.mostBytes(),
    coordinator: {
      ...{ servers: 1, start, steps: config.steps },
      staleness: config.dist.server.staleness,
      leaseMs: 1000 * config.dist.server.lease,
      before: microBatchesBefore(config),
      barrierAfter: barriers(config),
    },
    welcome: { config, dtype, start, token: at, documents, tokensPerEpoch } as ServedRun,
    onNotice: (message) => notices.push(message),
    onUpdated: () => {
      if (node.coordinator.hasEnded) ending.abort();
      stepper.goOn();
    },
  });
  node.failed.catch((error: unknown) => stepper.fail(error));
  const endSoon = (): void => {
    node.endSoon();
    const isAlone = node.coordinator.hasEnded || node.coordinator.workers.length === 0;
    if (isAlone) stepper.fail(new HadalError('HADAL_ERR_ABORTED', '[train] interrupted while no worker was there'));
  };
  signal?.addEventListener('abort', endSoon, { once: true });

  const { total: parameters, active } = parameterCounts(model);
  yield {
    ...{ type: 'start', runDir: directory.path, step: start, steps: config.steps },
    ...{ parameters, activeParameters: active },
    ...{ trainTokens: prepared.data.train.tokens, heldOutTokens: heldOut.tokens },
    ...{ device: device.name, threads: device.threads, instructionSet: run.state.instructionSet, dtype, memory },
    ...{ rank: 0, worldSize: 1, notes: [...notes, `serving workers at ${host}:${node.port}`] },
  };
  await using saver = run.openSaver();
  try {
    for await (const event of run.updates(loader, saver, ending.signal)) {
      yield* told(notices, run.state.step);
      yield event;
    }
  } finally {
    signal?.removeEventListener('abort', endSoon);
  }
  const { counts, staleness } = node.coordinator;
  directory.log({ step: run.state.step, server: { counts, staleness } });
}

function* told(notices: string[], step: number): Generator<WarningEvent> {
  for (const message of notices.splice(0)) yield { type: 'warning', step, message };
}

/** Checkpoints hold what is exactly the beginning of the data. */
function barriers({ checkpoint: { every }, steps }: SizedConfig): (version: number) => number {
  return (version) => (every > 0 ? Math.min(steps, (Math.floor(version / every) + 1) * every) : steps);
}

/** The programs of a server, what workers contribute, and which parameters an update changes. */
async function planServer(
  planner: Planner,
  step: StepConfig,
): Promise<{ plans: Plans; contributions: TensorSpec[]; changing: ReadonlySet<string> }> {
  const { model, target } = planner;
  const isNarrowed = [step.precision, ...step.precision.layers].some(({ dtype }) => dtype !== 'fp32');
  const names = [
    'first',
    'evaluation',
    'initialization',
    ...(isNarrowed ? (['working-copies'] as const) : []),
  ] as const;
  const made = await Promise.all(names.map(async (name) => [name, await planner.plan(name, step)] as const));
  const { first, ...others }: Plans = Object.fromEntries(made);
  const contributions = contributionsIn(model, first as Plan);
  const update = traceServerUpdate(model, contributions, copiesIn(others['working-copies']), step);
  const changing = new Set(update.updates.keys());
  return { plans: { ...others, apply: compile(update, target) }, contributions, changing };
}

/** Makes an update when the coordinator says so and the run is ready for it. */
class ServerStepper extends Stepper {
  #turn: Turn | null = null;
  #failure: { error: unknown } | null = null;
  /** Wakes the run that waits for something. */
  #wake = (): void => {};
  #isKnown = false;

  /**
   * Asks for an update; it is made when the run comes to it.
   *
   * @returns whether it changed anything
   */
  turn(squaredNorm: number | null): Promise<boolean> {
    return new Promise((done) => {
      this.#turn = { squaredNorm, done };
      this.#wake();
    });
  }

  /** The coordinator knows of the update: the run may look at what follows. */
  goOn(): void {
    this.#isKnown = true;
    this.#wake();
  }

  /** No update will come any more. */
  fail(error: unknown): void {
    this.#failure = { error };
    this.#wake();
  }

  override async update(window: readonly Batch[], inputs: UpdateInputs): Promise<UpdateResult> {
    const { squaredNorm, done } = await this.#until(() => this.#turn);
    this.#turn = null;
    const [given = {}] = this.inputsOf(window, inputs);
    const norm = Float32Array.of(squaredNorm ?? Number.NaN);
    const times = await this.runProgram('apply', { ...given, squaredNorm: norm });
    const result = await this.told(window, inputs, times);
    this.#isKnown = false;
    done(!result.skipped);
    await this.#until(() => this.#isKnown || null);
    return result;
  }

  /** Waits until there is something. @throws what {@link fail} was told */
  async #until<T>(look: () => T | null): Promise<T> {
    for (;;) {
      if (this.#failure) throw this.#failure.error;
      const found = look();
      if (found !== null) return found;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }
}

interface Turn {
  squaredNorm: number | null;
  done: (hasChanged: boolean) => void;
}

/** The server's tensors, as workers push to and pull from them. */
class Numbers implements ServerNumbers, Disposable {
  /** What workers read: the parameters. */
  readonly served: TensorSpec[];
  readonly pushBytes: number;
  readonly #incoming: [TensorSpec, Tensor][];
  readonly #slots: Record<string, Tensor>;
  readonly #programs: Record<'first' | 'next' | 'norm', Program>;
  readonly #norm: Tensor;
  /** The last contents read: workers that pull the same version read the same. */
  #contents: { key: string; bytes: Uint8Array } | null = null;

  constructor(
    readonly stepper: ServerStepper,
    contributions: readonly TensorSpec[],
    /** Names of the parameters that an update changes, among others. */
    private readonly changing: ReadonlySet<string>,
    dtype: PushDType,
  ) {
    const { device, tensors, parameters } = stepper;
    this.served = [...parameters.values()];
    const specs = pushed(contributions, dtype);
    this.pushBytes = bytesOfAll(specs);
    this.#incoming = specs.map((spec) => [spec, device.allocate(spec.shape, spec.dtype)]);
    this.#norm = device.allocate([1], 'fp32');
    this.#slots = {
      ...Object.fromEntries(tensors),
      ...Object.fromEntries(this.#incoming.map(([{ name }, tensor]) => [name, tensor])),
      squaredNorm: this.#norm,
    };
    const load = (graph: Parameters<typeof compile>[0]) => device.load(compile(graph, device.target));
    this.#programs = {
      first: load(traceSum(contributions, dtype, 'first')),
      next: load(traceSum(contributions, dtype, 'next')),
      norm: load(traceNorm(contributions)),
    };
  }

  get tensors(): number {
    return this.served.length;
  }

  /** That a message takes beside its text. @throws HadalError HADAL_ERR_CONFIG where it is more than one can */
  mostBytes(): number {
    const most = Math.max(this.pushBytes, bytesOfAll(this.served));
    if (most < 2 ** 32) return most;
    throw new HadalError(
      'HADAL_ERR_CONFIG',
      `[dist] expected weights of less than 4 GiB where dist.mode is 'parameter-server', got ${formatBytes(most)}; take all-reduce`,
    );
  }

  async sum(parts: readonly { gradient: Uint8Array; weight: number }[]): Promise<number | null> {
    const { device } = this.stepper;
    const slots = this.#slots;
    for (const [i, { gradient, weight }] of parts.entries()) {
      let at = 0;
      for (const [, tensor] of this.#incoming) {
        await tensor.write(gradient.subarray(at, at + tensor.bytes));
        at += tensor.bytes;
      }
      const program = this.#programs[i === 0 ? 'first' : 'next'];
      await device.run([{ program, slots, inputs: { weight: Float32Array.of(weight) } }]);
    }
    await device.run([{ program: this.#programs.norm, slots }]);
    const [norm = Number.NaN] = await this.#norm.toFloat32();
    return Number.isFinite(norm) ? norm : null;
  }

  async apply(_update: number, squaredNorm: number | null): Promise<Iterable<number>> {
    if (!(await this.stepper.turn(squaredNorm))) return [];
    this.#contents = null;
    return this.served.flatMap(({ name }, i) => (this.changing.has(name) ? [i] : []));
  }

  async read(tensors: readonly number[]): Promise<Uint8Array> {
    const key = tensors.join();
    if (this.#contents?.key === key) return this.#contents.bytes;
    const read = tensors.map((tensor) => this.stepper.tensors.get((this.served[tensor] as TensorSpec).name) as Tensor);
    const bytes = await readAll(read);
    this.#contents = { key, bytes };
    return bytes;
  }

  [Symbol.dispose](): void {
    for (const [, tensor] of this.#incoming) tensor.dispose();
    this.#norm.dispose();
  }
}
