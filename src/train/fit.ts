// Sizes of a run that are left to the machine.
import { HadalError } from '../core/errors.js';
import type { TrainConfig } from './config.js';
import type { SizedConfig } from './step-config.js';

/** Decides what the configuration leaves open. */
export function sized(config: TrainConfig): SizedConfig {
  const { batch, gradAccumulationSteps } = config;
  if (batch === 'auto' || gradAccumulationSteps === 'auto') {
    throw new HadalError('HADAL_ERR_CONFIG', '[train] expected batch and gradAccumulationSteps as numbers, got auto');
  }
  return { ...config, batch, gradAccumulationSteps };
}
