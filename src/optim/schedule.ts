// What changes over a run by a rule that is known before it: learning rate, rows an update, weights of the loss.
// `progress` is the share of the run's updates that are done, 0 before the first.

/** A value from a share of the run on. */
export interface Milestone {
  from: number;
  value: number;
}

/** A number, or one that changes in steps: the last milestone that was reached counts; before the first, the first. */
export type Scheduled = number | readonly Milestone[];

/** Learning rate over a run; see the configuration's `optimizer` for what each field means. */
export interface LearningRateSchedule {
  lr: number;
  minLrRatio: number;
  warmupSteps: number;
  /** Share of the run instead of `warmupSteps`; null: those count. */
  warmupShare: number | null;
  schedule: {
    shape: 'constant' | 'cosine' | 'polynomial' | 'warmup-stable-decay' | 'deepseek-v3' | 'step';
    power: number;
    decayShare: number;
    decay: 'linear' | 'cosine' | 'sqrt';
    milestones: readonly Milestone[];
  };
  /** Updates of the whole run. */
  steps: number;
}

/** How far down a decay has come, 1 to 0, after a share `x` of it. */
const decays = {
  linear: (x: number) => 1 - x,
  // Loshchilov & Hutter 2016, arXiv:1608.03983, eq. 5.
  cosine: (x: number) => (1 + Math.cos(Math.PI * x)) / 2,
  // Hägele et al. 2024, arXiv:2405.18392, eq. 2.
  sqrt: (x: number) => 1 - Math.sqrt(x),
} as const;

/** DeepSeek-V3, arXiv:2412.19437, §4.2: of 14.8 T tokens 10 T at the peak, 4.3 T of cosine to a tenth, then two plateaus. */
const deepseekV3 = { stable: 10 / 14.8, decayed: 14.3 / 14.8, last: (14.3 + 0.333) / 14.8, floor: 0.1, end: 7.3 / 220 };

/**
 * Learning rate of update `step`, counted from 0: a linear warm-up, then the shape.
 *
 * Shapes but 'step' and 'deepseek-v3' take their shares of what is left after warm-up; those two, as the paper, of the whole run.
 */
export function learningRate(schedule: LearningRateSchedule, step: number): number {
  const { lr, steps } = schedule;
  const warmup = warmupStepsOf(schedule);
  if (step < warmup) return (lr * (step + 1)) / warmup;
  return lr * ratioAfterWarmup(schedule, Math.min(1, (step - warmup) / Math.max(1, steps - warmup)), step / steps);
}

/** Updates of the warm-up. */
export function warmupStepsOf({ warmupSteps, warmupShare, steps }: LearningRateSchedule): number {
  return warmupShare === null ? warmupSteps : Math.round(warmupShare * steps);
}

/** @param progress - since warm-up @param overall - of the whole run */
function ratioAfterWarmup({ minLrRatio, schedule }: LearningRateSchedule, progress: number, overall: number): number {
  const between = (high: number, low: number, share: number) => low + (high - low) * share;
  const { shape, power, decayShare, decay, milestones } = schedule;
  switch (shape) {
    case 'constant':
      return 1;
    case 'cosine':
      return between(1, minLrRatio, decays.cosine(progress));
    case 'polynomial':
      return between(1, minLrRatio, (1 - progress) ** power);
    case 'warmup-stable-decay': {
      const begin = 1 - decayShare;
      return progress < begin ? 1 : between(1, minLrRatio, decays[decay]((progress - begin) / decayShare));
    }
    case 'deepseek-v3': {
      const { stable, decayed, last, floor, end } = deepseekV3;
      if (overall < stable) return 1;
      if (overall < decayed) return between(1, floor, decays.cosine((overall - stable) / (decayed - stable)));
      return overall < last ? floor : end;
    }
    case 'step':
      return overall < (milestones[0]?.from ?? Number.POSITIVE_INFINITY) ? 1 : valueAt(milestones, overall);
  }
}

/** A scheduled number at a share of the run. */
export function valueAt(scheduled: Scheduled, progress: number): number {
  if (typeof scheduled === 'number') return scheduled;
  const reached = scheduled.filter(({ from }) => from <= progress).at(-1) ?? scheduled[0];
  return reached?.value ?? 0;
}

/** Rows of the updates while their number grows; null: they are as many as `batch` from the first on. */
export type BatchRamp = { from: number; steps: number } | null;

/** Micro-batches of update `step`, counted from 0: the rows of the ramp, in whole micro-batches. */
export function microBatches(ramp: BatchRamp, rows: { batch: number; micro: number }, step: number): number {
  const { batch, micro } = rows;
  if (!ramp || step >= ramp.steps) return batch / micro;
  const from = Math.min(ramp.from, batch); // `batch: 'auto'` may come to fewer
  const wanted = from + ((batch - from) * step) / ramp.steps;
  return Math.max(1, Math.floor(wanted / micro));
}
