// Rules of a run: a measure that leaves its range, and what is done about it.
import type { TrainConfig } from './config.js';

/** A rule of the configuration. */
export type Rule = TrainConfig['watch']['rules'][number];

/** What rules look at. */
export type Metric = Rule['metric'];

/** What is done. */
export type RuleAction = Rule['action'];

/** A measure, and of what it is. */
export interface Measure {
  value: number;
  /** The layer, where it is of one. */
  where?: string;
}

/** A rule that applies. */
export interface Finding extends Measure {
  metric: Metric;
  action: RuleAction;
  /** Which end of the range was left, and where it lies. */
  bound: 'above' | 'below';
  limit: number;
  factor: number;
}

/**
 * Looks at measures as often as rules say. A rule with an interval is applied at each look at which its condition holds; one
 * without is looked at whenever its measure is there, and applied when its condition begins to hold.
 */
export class Rules {
  readonly #lastLookMs = new Map<Rule, number>();
  readonly #holding = new Set<Rule>();

  constructor(readonly rules: readonly Rule[]) {}

  /** Gradient norm above which the program leaves updates out. */
  get skipAbove(): number {
    return Math.min(
      ...this.rules.map(({ action, above }) => (action === 'skip' ? (above as number) : Number.POSITIVE_INFINITY)),
    );
  }

  /** Whether a rule that changes the run looks at what each process sees for itself: its clock, its memory. */
  get looksAtMachine(): boolean {
    return this.rules.some(
      ({ metric, everySeconds, action }) => action !== 'warn' && (metric === 'memory' || everySeconds !== undefined),
    );
  }

  /** Rules that apply after a step, in their order. @param measure - null: was not measured */
  check(step: number, measure: (metric: Metric) => Measure | null, nowMs = performance.now()): Finding[] {
    return this.rules.flatMap((rule) => {
      if (!this.#isDue(rule, step, nowMs)) return [];
      const measured = measure(rule.metric);
      if (!measured) return [];
      this.#lastLookMs.set(rule, nowMs);
      const { metric, action, factor } = rule;
      const left = boundLeft(rule, measured.value);
      const isNew = !this.#holding.has(rule);
      if (left) this.#holding.add(rule);
      else this.#holding.delete(rule);
      const applies = isNew || rule.everySteps !== undefined || rule.everySeconds !== undefined;
      return left && applies ? [{ metric, action, factor, ...left, ...measured }] : [];
    });
  }

  /** Rules whose conditions hold, as JSON: part of a checkpoint, or a run that goes on would apply them once more. */
  get holding(): string[] {
    return this.rules.filter((rule) => this.#holding.has(rule)).map((rule) => JSON.stringify(rule));
  }

  /** Goes on where these rules held. A rule that the configuration no longer has does not matter. */
  goOn(holding: readonly string[]): void {
    this.#holding.clear();
    for (const rule of this.rules) if (holding.includes(JSON.stringify(rule))) this.#holding.add(rule);
  }

  #isDue(rule: Rule, step: number, nowMs: number): boolean {
    const { everySteps = 1, everySeconds = 0 } = rule;
    const last = this.#lastLookMs.get(rule) ?? Number.NEGATIVE_INFINITY;
    return step % everySteps === 0 && nowMs - last >= 1000 * everySeconds;
  }
}

/** What is not a number lies beyond both bounds. */
function boundLeft({ above, below }: Rule, value: number): Pick<Finding, 'bound' | 'limit'> | null {
  if (above !== undefined && !(value <= above)) return { bound: 'above', limit: above };
  if (below !== undefined && !(value >= below)) return { bound: 'below', limit: below };
  return null;
}

const names: Record<Metric, string> = {
  gradNorm: 'gradient norm',
  activationRange: 'activation range',
  zerosShare: 'share of zeros',
  loss: 'loss',
  lossSpike: 'loss spike',
  lossVariance: 'loss variance',
  lossScale: 'loss scale',
  memory: 'share of memory in use',
  skippedSteps: 'steps skipped in a row',
};

const consequences: Record<RuleAction, (finding: Finding) => string> = {
  warn: () => '',
  skip: () => '; the update is left out',
  lowerLr: ({ factor }) => `; the learning rate is multiplied by ${factor}`,
  rollback: () => '; back to the last checkpoint',
  stop: () => '; the run ends',
};

/** A finding in words. */
export function describeFinding(finding: Finding): string {
  const { metric, value, where, bound, limit, action } = finding;
  const of = where === undefined ? '' : ` of ${where}`;
  return `${names[metric]} ${shortNumber(value)}${of} is ${bound} ${shortNumber(limit)}${consequences[action](finding)}`;
}

const shortNumber = (value: number) => String(Number(value.toPrecision(4)));
