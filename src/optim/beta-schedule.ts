// β that changes over a run: β_t = end + (begin − end)·(1 − t/T)^p, T updates in all.
import type { Value } from '../graph/graph.js';
import { divide, exp, log, maximum, multiply, subtract } from '../ops/elementwise.js';

/** Decays of running means, and where they go. */
export interface Betas {
  beta1: number;
  beta2: number;
  betaSchedule: { beta1End?: number | undefined; beta2End?: number | undefined; power: number } | null;
  /** T: updates of the whole run. */
  steps: number;
}

/** Where the β go; without a schedule they stay. */
export const endOf = ({ beta1, beta2, betaSchedule }: Betas): { beta1End: number; beta2End: number } => ({
  beta1End: betaSchedule?.beta1End ?? beta1,
  beta2End: betaSchedule?.beta2End ?? beta2,
});

/**
 * (1 − t/T)^p, what is left of the way.
 *
 * @param updates - fp32 [1], updates made, this one included: t + 1
 * @returns fp32 [1]; null without a schedule
 */
export function betaShare(updates: Value, { betaSchedule, steps }: Betas): Value | null {
  if (!betaSchedule) return null;
  const left = maximum(subtract(1, divide(subtract(updates, 1), steps)), 0);
  return betaSchedule.power === 1 ? left : exp(multiply(log(left), betaSchedule.power));
}
