// A worker of a run with a parameter server: computes gradients of the micro-batches that it is dealt, until the run is over.
// The configuration is the server's; its own are the device and the threads.
import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import { HadalError } from '../core/errors.js';
import { usableProcessors } from '../core/processors.js';
import { reported } from '../core/progress.js';
import { openStream, type RowStream } from '../data/weighted-stream.js';
import { WorkerNode, type WorkerNumbers } from '../dist/parameter-server/worker-node.js';
import { TokenShards } from '../formats/token-shards.js';
import type { Model } from '../models/model.js';
import { compile } from '../runtime/compile.js';
import { openDevice, type Program } from '../runtime/device.js';
import type { Plan } from '../runtime/plan.js';
import type { Tensor } from '../runtime/tensor.js';
import { resolveTrainConfig, type TrainConfig } from './config.js';
import type { PrepareEvent, TrainEvent } from './events.js';
import { modelOf } from './model-of.js';
import {
  microBatchesBefore,
  readAll,
  type ServedRun,
  type ServerAddress,
  servedRunSchema,
} from './parameter-server-run.js';
import { contributionsIn, pushed, tracePush } from './parameter-server-step.js';
import { Planner, type Plans } from './planning.js';
import { type PreparedRun, prepareRun } from './prepare.js';
import { scheduledValues } from './schedules.js';
import { type SizedConfig, stepConfigOf } from './step-config.js';
import { Stepper } from './stepper.js';

/** More than one message can take. */
const payloadBytes = 2 ** 32 - 1;

/** Works until the run is over. @throws HadalError as `train` does; HADAL_ERR_COMM when the server is out of reach */
export async function* work(
  { device: deviceName, threads, pinThreads, dist }: TrainConfig,
  address: ServerAddress,
  signal: AbortSignal | undefined,
): AsyncGenerator<TrainEvent, void> {
  using device = openDevice(deviceName, { threads: threads ?? usableProcessors(), pinThreads });
  const notices: string[] = [];
  const name = `${hostname().slice(0, 40)}-${process.pid}-${randomBytes(4).toString('hex')}`;
  const { node, run } = await WorkerNode.open(
    { ...address, name, timeout: dist.timeout, payloadBytes, onNotice: (message) => notices.push(message) },
    signal,
  );
  using _node = node;
  const served = readRun(run);
  const config = resolveTrainConfig(served.config, 'the server’s configuration') as SizedConfig;
  const { model } = await modelOf(config);
  const step = stepConfigOf({ ...config, watch: { ...config.watch, activationsEvery: 0 } }, served.dtype);
  await using planner = new Planner(model, device.threads);
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
  using rows = new Rows(prepared, config, served, model);
  using numbers = new Numbers(stepper, plans.first as Plan, rows, config);
  const working = node.work(numbers, signal);
  working.catch(() => {}); // thrown below
  yield { type: 'warning', step: served.start, message: `worker ${name} of ${address.host}:${address.port}` };
  await working;
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
async function planWorker(planner: Planner, step: Stepper['config']): Promise<Plans> {
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
    private readonly model: Model,
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

  rows(microBatch: number) {
    const { seqLen, batch, gradAccumulationSteps } = this.config;
    const rows = batch / gradAccumulationSteps;
    const token = this.run.token + (microBatch - this.before(this.run.start)) * rows * seqLen;
    return this.#stream.pack(token, { batch: rows, seqLen, mtpDepth: this.model.mtpDepth });
  }

  [Symbol.dispose](): void {
    this.#shards[Symbol.dispose]();
  }
}

/** Forward and backward on a cache of the parameters. */
class Numbers implements WorkerNumbers, Disposable {
  /** What is pushed, in its order. */
  readonly #gradient: Tensor[];
  readonly #rounded: Tensor[] = [];
  readonly #push: Program | null = null;
  readonly #slots: Record<string, Tensor>;

  constructor(
    readonly stepper: Stepper,
    first: Plan,
    readonly rows: Rows,
    readonly config: SizedConfig,
  ) {
    const { device, tensors, model } = stepper;
    const { pushDtype } = config.dist.server;
    const contributions = contributionsIn(model, first);
    this.#slots = Object.fromEntries(tensors);
    if (pushDtype !== 'fp32') {
      for (const { name, shape, dtype } of pushed(contributions, pushDtype)) {
        const tensor = device.allocate(shape, dtype);
        this.#rounded.push(tensor);
        this.#slots[name] = tensor;
      }
      this.#push = device.load(compile(tracePush(contributions, pushDtype), device.threads));
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
    await this.stepper.refreshWorkingCopies();
  }

  async compute(microBatch: number): Promise<number> {
    const { stepper, rows, config } = this;
    const update = rows.updateOf(microBatch);
    const batch = rows.rows(microBatch);
    const { mtpWeight } = scheduledValues(config, update);
    const most = config.gradAccumulationSteps;
    // The key of its random numbers is the one that it would have among the micro-batches of one process.
    const key = { step: update * most + microBatch - rows.before(update), mostMicroBatches: 1 };
    const scheduled = { mtpWeight, balanceWeight: config.loss.balanceWeight, lr: 0, routerBiasSpeed: 0 };
    const [given = {}] = stepper.inputsOf([batch], { ...scheduled, ...key, seed: config.seed });
    await stepper.runProgram('first', given);
    if (this.#push) await stepper.device.run([{ program: this.#push, slots: this.#slots }]);
    return batch.counts.labels;
  }

  gradient(): Promise<Uint8Array> {
    return readAll(this.#gradient);
  }

  [Symbol.dispose](): void {
    for (const tensor of this.#rounded) tensor.dispose();
  }
}
