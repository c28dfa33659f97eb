// Runs as they might be, and what they would take.
import { HadalError } from '../core/errors.js';
import type { PrecisionDType } from '../passes/narrow.js';
import type { Plan } from '../runtime/plan.js';
import type { MemoryTable } from './events.js';
import { blockBytes, hasSnapshot, planMemory } from './memory.js';
import type { Planner, PlanOptions } from './planning.js';
import { type SizedConfig, stepConfigOf } from './step-config.js';

/** A run as it might be. */
export interface Candidate extends PlanOptions {
  config: SizedConfig;
  memory: MemoryTable;
  /** Of the program whose arena is largest. */
  arenaBytes: number;
  /** An update might take so long: for comparing, not for telling. */
  seconds: number;
}

/** A disk takes so many bytes a second. */
const savedASecond = 5e8;

/** Plans runs as they might be. */
export class Candidates {
  /**
   * @param base - bytes of the process beside what is planned
   * @param budget - bytes that both may take together
   * @param place - among the processes that train together
   */
  constructor(
    readonly planner: Planner,
    readonly dtype: PrecisionDType,
    readonly base: number,
    readonly budget: number,
    readonly place: { rank: number; size: number } = { rank: 0, size: 1 },
  ) {}

  /**
   * What a run would take. `activationCheckpointing: 'auto'` is 'none' where that fits.
   *
   * @throws HadalError HADAL_ERR_CONFIG for sizes that kernels cannot count
   */
  async of(config: SizedConfig): Promise<Candidate> {
    if (config.activationCheckpointing !== 'auto') return this.#planned(config);
    let found = await this.#planned({ ...config, activationCheckpointing: 'none' });
    let withinBytes = found.arenaBytes;
    // Programs that recompute are longer themselves, so that once may not do.
    while (found.memory.total > this.budget && found.arenaBytes <= withinBytes) {
      withinBytes = found.arenaBytes - blockBytes(found.memory.total - this.budget);
      if (withinBytes <= 0) break;
      found = await this.#planned(config, withinBytes);
    }
    return found;
  }

  async #planned(config: SizedConfig, withinBytes?: number): Promise<Candidate> {
    const { gradAccumulationSteps: parts, checkpoint } = config;
    const accumulates = parts > 1;
    const step = stepConfigOf(config, this.dtype, this.place);
    const plans = await this.planner.updates(step, { accumulates, withinBytes });
    const { base, budget } = this;
    const snapshot = hasSnapshot(config);
    const memory = planMemory(this.planner.model, plans, { gradAccumulationSteps: parts, snapshot, base, budget });
    const { whole, first, next, last, apply } = plans;
    const between = Array.from({ length: parts - (last ? 2 : 1) }, () => next);
    const updates = accumulates ? [first, ...between, last, apply] : [whole];
    const seconds = updates.reduce((sum, plan) => sum + (plan ? secondsOf(plan) : 0), 0);
    const waiting = snapshot || checkpoint.every === 0 ? 0 : memory.saved / savedASecond / checkpoint.every;
    const arenaBytes = Math.max(...Object.values(plans).map((plan) => plan.arenaBytes));
    return { config, accumulates, withinBytes, memory, arenaBytes, seconds: seconds + waiting };
  }

  /** Bytes that a run would take; Infinity where kernels cannot count such sizes. */
  async bytesOf(config: SizedConfig): Promise<number> {
    try {
      return (await this.of(config)).memory.total;
    } catch (error) {
      if (error instanceof HadalError && error.code === 'HADAL_ERR_CONFIG') return Number.POSITIVE_INFINITY;
      throw error;
    }
  }

  /** The first of a list, ordered by falling need, that fits. */
  async firstFitting(configs: readonly SizedConfig[]): Promise<Candidate | null> {
    let found: Candidate | null = null;
    let [low, high] = [0, configs.length];
    // Most runs fit as they are: the first is tried first.
    for (let at = 0; low < high; at = (low + high) >> 1) {
      const config = configs[at] as SizedConfig;
      if ((await this.bytesOf(config)) <= this.budget) [found, high] = [await this.of(config), at];
      else low = at + 1;
    }
    return found;
  }
}

/**
 * How long a program might take: a processor does 100 floating-point operations and reads 8 bytes a nanosecond and begins a
 * kernel in 5 µs; a disk, which what is offloaded waits for, has 2 bytes a nanosecond.
 */
function secondsOf({ instructions, target: { threads } }: Plan): number {
  return instructions.reduce((sum, { queue, flops, bytesRead, bytesWritten }) => {
    const bytes = bytesRead + bytesWritten;
    if (queue === 'copy') return sum + bytes / 2e9;
    return sum + Math.max(flops / (100e9 * threads), bytes / (8e9 * threads)) + 5e-6;
  }, 0);
}

/** Numbers that divide another, from 1 on. */
export function divisorsOf(n: number): number[] {
  const small = Array.from({ length: Math.floor(Math.sqrt(n)) }, (_, i) => i + 1).filter((each) => n % each === 0);
  return [...new Set([...small, ...small.map((each) => n / each)])].sort((a, b) => a - b);
}
