// What is measured beside the loss, and the rules that look at it.
import { memoryShare } from '../core/memory.js';
import { statisticNames } from '../ops/statistics.js';
import type { TrainConfig } from './config.js';
import type { StepEvent } from './events.js';
import { type Finding, type Measure, type Metric, Rules } from './rules.js';
import { type Activation, statisticsOf, statisticsOfAll } from './statistics.js';
import type { UpdateResult } from './stepper.js';
import type { Together } from './together.js';

/** Losses that variance and deviation are of: as many as there are, up to this. */
const windowSteps = 64;
/** Losses that a spike stands above the mean of; before there are so many, none can be told. */
const spikeSteps = 16;
/** Losses deviate by at least this share of their mean, however calm they were. */
const leastDeviation = 0.01;

/** What watching knows beyond a step; part of a checkpoint. */
export interface WatchState {
  /** The learning rate is multiplied with it. */
  lrFactor: number;
  /** The last finite losses, oldest first. */
  losses: number[];
  /** Updates that were left out in a row until now. */
  skippedInARow: number;
  /** Rules whose conditions hold, see {@link Rules.holding}. */
  holding: string[];
}

/** What it knows before the first step. */
export const nothingWatched: WatchState = { lrFactor: 1, losses: [], skippedInARow: 0, holding: [] };

/** What watching adds to a step's metrics. */
export type WatchMetrics = Pick<StepEvent, 'lossVariance' | 'activationRange' | 'zerosShare'>;

/** What rules may look at that is not of the update. Processes that train together look at the same. */
export interface Machine {
  nowMs: number;
  memoryShare: number;
}

/** What this process sees of it. */
export const thisMachine = (): Machine => ({ nowMs: performance.now(), memoryShare: memoryShare() });

/** What rules look at of an update, the same in all processes; null: each may look for itself. */
export async function seenByAll(
  together: Together,
  looksAtMachine: boolean,
  activations: readonly Activation[] | null,
): Promise<{ machine: Machine | null; activations: Activation[] | null }> {
  // As text: JSON has no ∞.
  const texts = activations?.map((each) => statisticNames.map((name) => String(each[name])));
  const all = await together.gather('watch', { machine: looksAtMachine ? thisMachine() : null, texts });
  const machines = all.flatMap(({ machine }) => machine ?? []);
  return {
    machine: machines[0]
      ? { ...machines[0], memoryShare: Math.max(...machines.map((machine) => machine.memoryShare)) }
      : null,
    activations:
      activations?.map(({ where }, i) => {
        const parts = all.map(({ texts: of }) => statisticsOf(Float32Array.from(of?.[i] ?? [], Number)));
        return { where, ...statisticsOfAll(parts) };
      }) ?? null,
  };
}

/** Watches one run. */
export class Watcher {
  state = nothingWatched;
  readonly #rules: Rules;
  readonly #activationsEvery: number;

  constructor({ rules, activationsEvery }: TrainConfig['watch']) {
    this.#rules = new Rules(rules);
    this.#activationsEvery = activationsEvery;
  }

  /** What the program is told. @param step - number of the update that it is to do, from 1 */
  inputs(step: number): { skipAbove: number; isWatched: boolean } {
    const every = this.#activationsEvery;
    return { skipAbove: this.#rules.skipAbove, isWatched: every > 0 && step % every === 0 };
  }

  /** Whether rules that change the run look at the machine. */
  get looksAtMachine(): boolean {
    return this.#rules.looksAtMachine;
  }

  /**
   * Takes note of an update; tells what it adds to the metrics, and which rules apply.
   *
   * @param machine - null: as this process sees it
   */
  afterStep(
    step: number,
    result: UpdateResult,
    machine: Machine | null = null,
  ): { metrics: WatchMetrics; findings: Finding[] } {
    const { loss, gradNorm, lossScale, skipped, overflowed, activations } = result;
    const skippedInARow = skipped ? this.state.skippedInARow + 1 : 0;
    const spike = spikeOf(loss, this.state.losses);
    const losses = Number.isFinite(loss) ? [...this.state.losses, loss].slice(-windowSteps) : this.state.losses;
    const lossVariance = losses.length > 1 ? variance(losses) : null;
    const [range, zeros] = activations ? [widest(activations), emptiest(activations)] : [null, null];
    const of = (value: number | null) => (value === null ? null : { value });
    const measures: Record<Metric, () => Measure | null> = {
      // That it overflowed is the loss scale's matter, or one of steps skipped in a row.
      gradNorm: () => (overflowed ? null : { value: gradNorm }),
      activationRange: () => range,
      zerosShare: () => zeros,
      loss: () => ({ value: loss }),
      lossSpike: () => of(spike),
      lossVariance: () => of(lossVariance),
      lossScale: () => of(lossScale),
      memory: () => ({ value: machine?.memoryShare ?? memoryShare() }),
      skippedSteps: () => ({ value: skippedInARow }),
    };
    const findings = this.#rules.check(step, (metric) => measures[metric](), machine?.nowMs);
    const lowered = findings.filter(({ action }) => action === 'lowerLr').map(({ factor }) => factor);
    const lrFactor = lowered.reduce((product, factor) => product * factor, this.state.lrFactor);
    this.state = { lrFactor, losses, skippedInARow, holding: this.#rules.holding };
    return {
      metrics: { lossVariance, activationRange: range?.value ?? null, zerosShare: zeros?.value ?? null },
      findings,
    };
  }

  /** Goes on from what a checkpoint knows. A learning rate that was lowered since stays low. */
  goOn(state: WatchState): void {
    this.state = { ...state, lrFactor: Math.min(state.lrFactor, this.state.lrFactor) };
    this.#rules.goOn(state.holding);
  }

  /** Goes back to what a checkpoint knows: conditions that held then are met anew. */
  rollBack(state: WatchState): void {
    this.goOn({ ...state, skippedInARow: 0, holding: [] });
  }
}

/**
 * How many standard deviations a loss lies above the mean of the 16 before it; null while they are fewer. The deviation is that
 * of one loss from the next, over √2 (von Neumann 1941): a loss that falls steadily has none.
 */
function spikeOf(loss: number, before: readonly number[]): number | null {
  if (before.length < spikeSteps) return null;
  if (!Number.isFinite(loss)) return Number.POSITIVE_INFINITY;
  const center = mean(before.slice(-spikeSteps));
  const squares = before.slice(1).map((next, i) => (next - (before[i] as number)) ** 2);
  return (loss - center) / Math.max(Math.sqrt(mean(squares) / 2), leastDeviation * Math.abs(center));
}

const mean = (numbers: readonly number[]) => numbers.reduce((sum, x) => sum + x, 0) / numbers.length;

function variance(numbers: readonly number[]): number {
  const center = mean(numbers);
  return numbers.reduce((sum, x) => sum + (x - center) ** 2, 0) / (numbers.length - 1);
}

const rangeOf = ({ smallest, greatest, notFinite }: Activation) =>
  notFinite > 0 ? Number.POSITIVE_INFINITY : Math.max(Math.abs(smallest), Math.abs(greatest));

function widest(activations: readonly Activation[]): Measure | null {
  return largest(activations.map((each) => ({ where: each.where, value: rangeOf(each) })));
}

function emptiest(activations: readonly Activation[]): Measure | null {
  return largest(activations.map(({ where, zeros, count }) => ({ where, value: zeros / count })));
}

function largest(measures: readonly Measure[]): Measure | null {
  return measures.reduce<Measure | null>((most, each) => (most && most.value >= each.value ? most : each), null);
}
