// Programs of a run, planned off the main thread.
import { workerUrl } from '../core/worker-url.js';
import { WorkerPool } from '../data/worker-pool.js';
import type { Model } from '../models/model.js';
import { isSharded } from '../optim/zero.js';
import type { Precision } from '../passes/narrow.js';
import type { Plan } from '../runtime/plan.js';
import type { Target } from '../runtime/target.js';
import type { CompileTask, UncompressedPart } from './compile-worker.js';
import type { StepConfig, StepPart } from './step.js';

/** Planned programs by name. */
export type Plans = Partial<Record<CompileTask['program'], Plan>>;

/** How the programs of a run are planned. */
export interface PlanOptions {
  /** Whether an update has several micro-batches. */
  accumulates: boolean;
  /** Bytes that the arena may take where activation checkpointing is `auto`; default: no limit. */
  withinBytes?: number | undefined;
  /** In its place: how much each program computes again, as {@link candidatesOf} tells it of another process's. */
  candidates?: Partial<Record<CompileTask['program'], number>> | undefined;
}

/** How much programs compute again, where that was left open. */
export const candidatesOf = (plans: Plans): NonNullable<PlanOptions['candidates']> =>
  Object.fromEntries(
    Object.entries(plans).flatMap(([name, { candidate }]) => (candidate === undefined ? [] : [[name, candidate]])),
  );

/** Plans programs of a model, each once. */
export class Planner implements AsyncDisposable {
  readonly #plans = new Map<string, Promise<Plan>>();

  readonly #pool: WorkerPool | null;
  readonly #compile: (task: CompileTask) => Promise<Plan>;

  /**
   * @param target - the device they are for
   * @param compile - what plans a program; default: a thread of its own
   */
  constructor(
    readonly model: Model,
    readonly target: Target,
    compile?: (task: CompileTask) => Promise<Plan>,
  ) {
    const pool = compile ? null : new WorkerPool(workerUrl(import.meta.url, './compile-worker.js'), 1);
    this.#pool = pool;
    this.#compile = compile ?? ((task) => (pool as WorkerPool).run<Plan>('compileProgram', task));
  }

  /** @throws HadalError HADAL_ERR_CONFIG for sizes that kernels cannot count */
  plan(
    program: CompileTask['program'],
    step: StepConfig,
    { withinBytes, candidates }: Omit<PlanOptions, 'accumulates'> = {},
  ): Promise<Plan> {
    const candidate = candidates?.[program];
    const key = JSON.stringify([program, step, withinBytes, candidate]);
    const known = this.#plans.get(key);
    if (known) return known;
    const task: CompileTask = {
      model: this.model.toHuggingFace(),
      program,
      step,
      target: this.target,
      ...(withinBytes === undefined ? {} : { withinBytes }),
      ...(candidate === undefined ? {} : { candidate }),
    };
    const planned = this.#compile(task);
    planned.catch(() => {}); // reported where it is awaited
    this.#plans.set(key, planned);
    return planned;
  }

  /** The programs of updates and of evaluation, which take the most memory. */
  async updates(step: StepConfig, { accumulates, ...room }: PlanOptions): Promise<Plans> {
    return this.#named([...partsOf(step, accumulates), 'evaluation'], step, room);
  }

  /** Every program of a run. */
  async programs(step: StepConfig, options: PlanOptions): Promise<Plans> {
    const isCopied = isNarrowed(step.precision) || isSharded(step.dist);
    const copies = isCopied ? (['working-copies'] as const) : [];
    const others = await this.#named(['initialization', ...copies], step);
    return { ...others, ...(await this.updates(step, options)) };
  }

  async #named(
    names: readonly (keyof Plans)[],
    step: StepConfig,
    room: Omit<PlanOptions, 'accumulates'> = {},
  ): Promise<Plans> {
    const plans = names.map(async (name) => [name, await this.plan(name, step, room)] as const);
    return Object.fromEntries(await Promise.all(plans));
  }

  /** Ends it, whether done or not. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#pool?.[Symbol.asyncDispose]();
  }
}

/** The programs of updates. Where processes train together, an update of one micro-batch is 'whole', however many others have. */
function partsOf({ dist }: StepConfig, accumulates: boolean): (StepPart | UncompressedPart)[] {
  if (!dist) return accumulates ? ['first', 'next', 'apply'] : ['whole'];
  const begins = dist.compression.kind !== 'none' && dist.compression.startStep > 0;
  const whole = begins ? (['whole', 'whole-uncompressed'] as const) : (['whole'] as const);
  const last = begins ? (['last', 'last-uncompressed'] as const) : (['last'] as const);
  return accumulates ? ['first', 'next', ...last, ...whole] : [...whole];
}

/** Plans the programs of a run. */
export async function planPrograms(
  model: Model,
  step: StepConfig,
  { target, ...options }: PlanOptions & { target: Target },
): Promise<Plans> {
  await using planner = new Planner(model, target);
  return await planner.programs(step, options);
}

const isNarrowed = ({ dtype, layers }: Precision): boolean =>
  [{ dtype }, ...layers].some((one) => one.dtype !== 'fp32');
