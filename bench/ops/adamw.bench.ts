import { applyAdamw } from '../../src/optim/adamw.js';
import { countUpdate } from '../../src/optim/update-state.js';
import { updateCases } from '../support/update-cases.js';

const config = { beta1: 0.9, beta2: 0.95, betaSchedule: null, steps: 1, eps: 1e-8 };

export const cases = (['fp32', 'bf16'] as const).flatMap((momentDtype) =>
  updateCases(`${momentDtype} moments`, { 'adam.v': momentDtype }, (graph, updated, rates) =>
    applyAdamw(graph, updated, rates, { ...config, momentDtype }, countUpdate(graph)),
  ),
);
