// A worker of a run with a parameter server: computes gradients of the micro-batches that it is dealt, until the run is over.
// The configuration is the server's; its own are the device and the threads.
import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import { HadalError } from '../core/errors.js';
import { usableProcessors } from '../core/processors.js';
import { reported } from '../core/progress.js';
import type { Batch } from '../data/batch.js';
import { openStream, type RowStream } from '../data/weighted-stream.js';
import { WorkerNode, type WorkerNumbers } from '../dist/parameter-server/worker-node.js';
import type { World } from '../dist/world.js';
import { TokenShards } from '../formats/token-shards.js';
import type { Graph } from '../graph/graph.js';
import { compile } from '../runtime/compile.js';
import { openDevice, type Program } from '../runtime/device.js';
import type { Plan } from '../runtime/plan.js';
import type { Tensor } from '../runtime/tensor.js';
import { resolveTrainConfig, type TrainConfig } from './config.js';
import { countNames } from './contribution.js';
import type { PrepareEvent, TrainEvent } from './events.js';
import { modelOf } from './model-of.js';
import {
  microBatchesBefore,
  readAll,
  type ServedRun,
  type ServerAddress,
  servedRunSchema,
} from './parameter-server-run.js';
import { contributionsIn, pushed, traceBoxShare, traceBoxSum, tracePush } from './parameter-server-step.js';
import { Planner, type Plans } from './planning.js';
import { type PreparedRun, prepareRun } from './prepare.js';
import { scheduledValues } from './schedules.js';
import type { StepConfig } from './step.js';
import { type SizedConfig, stepConfigOf } from './step-config.js';
import { Stepper } from './stepper.js';
import { Together } from './together.js';

/** More than one message can take. */
const payloadBytes = 2 ** 32 - 1;

/**
 * Works until the run is over.
 *
 * @param world - the processes of a box that are one worker, disposed of at the end; null: this one alone
 * @throws HadalError as `train` does; HADAL_ERR_COMM when the server, or a process of the box, is out of reach
 */
export async function* work(
  { device: deviceName, threads, pinThreads, dist }: TrainConfig,
  address: ServerAddress,
  world: World | null,
  signal: AbortSignal | undefined,
): AsyncGenerator<TrainEvent, void> {
  using device = openDevice(deviceName, { threads: threads ?? usableProcessors(), pinThreads });
  // Before the device, which its group is of.
  await using _world = world;
  const together = new Together(world);
  const notices: string[] = [];
  const name = `${hostname().slice(0, 40)}-${process.pid}-${randomBytes(4).toString('hex')}`;
  const { timeout } = dist;
  const onNotice = (message: string): void => void notices.push(message);
  // The first process of a box talks to the server, the others to it.
  const opened = together.isFirst
    ? await WorkerNode.open({ ...address, name, timeout, payloadBytes, onNotice }, signal)
    : null;
  using node = opened?.node ?? null;
  const served = readRun(await together.fromFirst<unknown>('run', opened?.run ?? null));
  const config = resolveTrainConfig(served.config, 'the server’s configuration') as SizedConfig;
  const { model } = await modelOf(config);
  const step = stepConfigOf({ ...config, watch: { ...config.watch, activationsEvery: 0 } }, served.dtype, together);
  await using planner = new Planner(model, device.target);
  yield { type: 'prepare', phase: 'program', done: 0, total: 0 };
  const planning = planWorker(planner, step);
  planning.catch(() => {}); // reported where it is awaited
  const prepared = yield* reported<PrepareEvent, PreparedRun>(
    (onEvent, stop) => prepareRun(config, model.vocabSize, { signal: stop, onEvent }),
    signal,
  );
  const plans = await planning;
  yield { type: 'prepare', phase: 'program', done: 0, total: 1 };
  using stepper = new Stepper(device, model, step, plans);
  await world?.connect(device, config.dist);
  using rows = new Rows(prepared, config, served, step, model.mtpDepth);
  using numbers = new Numbers(stepper, plans.first as Plan, rows, config, together);
  if (!node) {
    await numbers.follow();
    return;
  }
  const working = node.work(numbers, signal);
  working.catch(() => {}); // thrown below
  yield { type: 'warning', step: served.start, message: `worker ${name} of ${address.host}:${address.port}` };
  await working;
  await numbers.end();
  const { accepted, refused } = node.protocol.counts;
  for (const message of [...notices, `the run is over: ${accepted} gradients were accepted, ${refused} refused`]) {
    yield { type: 'warning', step: config.steps, message };
  }
}

function readRun(run: unknown): ServedRun {
  const read = servedRunSchema.safeParse(run);
  if (read.success) return read.data;
  throw new HadalError(
    'HADAL_ERR_COMM',
    '[comm] expected a run from the server, got another message; run the same version of hadal everywhere',
  );
}

/** The programs of a worker. */
async function planWorker(planner: Planner, step: StepConfig): Promise<Plans> {
  const isNarrowed = [step.precision, ...step.precision.layers].some(({ dtype }) => dtype !== 'fp32');
  const copies = isNarrowed ? { 'working-copies': await planner.plan('working-copies', step) } : {};
  return { ...copies, first: await planner.plan('first', step) };
}

/** The run's micro-batches, by number. */
class Rows implements Disposable {
  readonly #shards: TokenShards;
  readonly #stream: RowStream;
  readonly before: (update: number) => number;
  #update: number;

  /** @throws HadalError HADAL_ERR_DATA when the data are not the server's */
  constructor(
    { data: { train } }: PreparedRun,
    private readonly config: SizedConfig,
    private readonly run: ServedRun,
    private readonly step: StepConfig,
    private readonly mtpDepth: number,
  ) {
    this.before = microBatchesBefore(config);
    this.#update = run.start;
    this.#shards = TokenShards.open(train.dir);
    this.#stream = openStream(this.#shards, config.seed, train.sources);
    const { documents, tokensPerEpoch } = this.#stream;
    if (documents === run.documents && tokensPerEpoch === run.tokensPerEpoch) return;
    this.#shards[Symbol.dispose]();
    throw new HadalError(
      'HADAL_ERR_DATA',
      `[data] expected the server's data (${run.documents} documents, ${run.tokensPerEpoch} tokens), got ${documents} documents, ${tokensPerEpoch} tokens; give this host the same files`,
    );
  }

  /** The update whose schedule a micro-batch follows: the one that would take it if all came in order. */
  updateOf(microBatch: number): number {
    while (this.#update > 0 && this.before(this.#update) > microBatch) this.#update--;
    while (this.before(this.#update + 1) <= microBatch) this.#update++;
    return this.#update;
  }

  /** This process's share of them. */
  rows(microBatch: number): Batch {
    const { seqLen, batch, gradAccumulationSteps } = this.config;
    const { rank = 0, worldSize = 1 } = this.step.dist ?? {};
    const rows = batch / gradAccumulationSteps;
    const token = this.run.token + (microBatch - this.before(this.run.start)) * rows * seqLen;
    return this.#stream.pack(token, { batch: rows, seqLen, mtpDepth: this.mtpDepth, rank, worldSize });
  }

  [Symbol.dispose](): void {
    this.#shards[Symbol.dispose]();
  }
}

/** What the first process of a box is dealt, for all; null: the run is over. */
type Deal = { microBatch: number; isNew: boolean } | null;

/** Forward and backward on a cache of the parameters. */
class Numbers implements WorkerNumbers, Disposable {
  /** What is pushed, in its order. */
  readonly #gradient: Tensor[];
  readonly #rounded: Tensor[] = [];
  readonly #push: Program | null = null;
  /** Of the processes of a box: the sum of what they contribute, and the parameters of the first. */
  readonly #box: { sum: Program; share: Program } | null = null;
  /** Whether the others of the box have other parameters. */
  #isNew = false;
  readonly #slots: Record<string, Tensor>;

  constructor(
    readonly stepper: Stepper,
    first: Plan,
    readonly rows: Rows,
    readonly config: SizedConfig,
    readonly together: Together,
  ) {
    const { device, tensors, model, parameters } = stepper;
    const { pushDtype } = config.dist.server;
    const contributions = contributionsIn(model, first);
    this.#slots = Object.fromEntries(tensors);
    if (pushDtype !== 'fp32') {
      for (const { name, shape, dtype } of pushed(contributions, pushDtype)) {
        const tensor = device.allocate(shape, dtype);
        this.#rounded.push(tensor);
        this.#slots[name] = tensor;
      }
      this.#push = device.load(compile(tracePush(contributions, pushDtype), device.target));
    }
    const { size } = together;
    if (size > 1) {
      const load = (graph: Graph) => device.load(compile(graph, device.target));
      this.#box = {
        sum: load(traceBoxSum(contributions, size)),
        share: load(traceBoxShare(parameters.values(), size)),
      };
    }
    const own = contributions.map(({ name }) => tensors.get(name) as Tensor);
    this.#gradient = this.#push ? this.#rounded : own;
  }

  async load(numbers: readonly number[], payload: Uint8Array): Promise<void> {
    const { parameters, tensors } = this.stepper;
    const names = [...parameters.keys()];
    const targets = numbers.map((number) => tensors.get(names[number] ?? ''));
    const bytes = targets.reduce((sum, tensor) => sum + (tensor?.bytes ?? 0), 0);
    if (targets.includes(undefined) || bytes !== payload.byteLength) {
      throw new HadalError('HADAL_ERR_COMM', `[comm] expected parameters of ${bytes} bytes, got ${payload.byteLength}`);
    }
    let at = 0;
    for (const tensor of targets as Tensor[]) {
      await tensor.write(payload.subarray(at, at + tensor.bytes));
      at += tensor.bytes;
    }
    this.#isNew = true;
  }

  async compute(microBatch: number): Promise<number> {
    const isNew = this.#isNew;
    this.#isNew = false;
    await this.together.gather<Deal>('deal', { microBatch, isNew });
    return this.#compute(microBatch, isNew);
  }

  /** Computes what the first process of the box is dealt, until it says that the run is over. */
  async follow(): Promise<void> {
    for (;;) {
      const deal = await this.together.fromFirst<Deal>('deal', null);
      if (!deal) return;
      await this.#compute(deal.microBatch, deal.isNew);
    }
  }

  /** Tells the others of the box that the run is over. */
  async end(): Promise<void> {
    await this.together.gather<Deal>('deal', null);
  }

  /** @returns labels of the micro-batch, which its gradient is the mean over */
  async #compute(microBatch: number, isNew: boolean): Promise<number> {
    const { stepper, rows, config } = this;
    const { device, tensors } = stepper;
    if (isNew) {
      if (this.#box) await device.run([{ program: this.#box.share, slots: this.#slots }]);
      await stepper.refreshWorkingCopies();
    }
    const update = rows.updateOf(microBatch);
    const batch = rows.rows(microBatch);
    const { mtpWeight } = scheduledValues(config, update);
    const most = config.gradAccumulationSteps;
    // The key of its random numbers is the one that it would have among the micro-batches of one process.
    const key = { step: update * most + microBatch - rows.before(update), mostMicroBatches: 1 };
    const scheduled = { mtpWeight, balanceWeight: config.loss.balanceWeight, lr: 0, routerBiasSpeed: 0 };
    const [given = {}] = stepper.inputsOf([batch], { ...scheduled, ...key, seed: config.seed });
    await stepper.runProgram('first', given);
    for (const program of [this.#box?.sum, this.#push]) {
      if (program) await device.run([{ program, slots: this.#slots }]);
    }
    if (!this.#box) return batch.counts.labels;
    const counts = await (tensors.get('counts') as Tensor).toFloat32();
    return counts[countNames.indexOf('labels')] as number;
  }

  gradient(): Promise<Uint8Array> {
    return readAll(this.#gradient);
  }

  [Symbol.dispose](): void {
    for (const tensor of this.#rounded) tensor.dispose();
  }
}
