// What changes over a run by a rule that is known before it.
import { learningRate, microBatches, valueAt } from '../optim/schedule.js';
import type { SizedConfig } from './step-config.js';

/** What an update is made with. */
export interface ScheduledValues {
  lr: number;
  /** Micro-batches whose gradients are summed. */
  microBatches: number;
  /** λ of the multi-token-prediction loss. */
  mtpWeight: number;
  /** γ of the router bias. */
  routerBiasSpeed: number;
}

/** Values of update `step`, counted from 0. */
export function scheduledValues(config: SizedConfig, step: number): ScheduledValues {
  const { batch, gradAccumulationSteps, batchRamp, loss, optimizer, steps } = config;
  const progress = step / steps;
  return {
    lr: learningRate({ ...optimizer, steps }, step),
    microBatches: microBatches(batchRamp, { batch, micro: batch / gradAccumulationSteps }, step),
    mtpWeight: valueAt(loss.mtpWeight, progress),
    routerBiasSpeed: valueAt(loss.routerBiasSpeed, progress),
  };
}
