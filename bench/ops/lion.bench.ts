import { applyLion } from '../../src/optim/lion.js';
import { countUpdate } from '../../src/optim/update-state.js';
import { updateCases } from '../support/update-cases.js';

const config = { beta1: 0.9, beta2: 0.99, betaSchedule: null, steps: 1, eps: 1e-8 };

export const cases = (['fp32', 'bf16'] as const).flatMap((momentDtype) => [
  ...updateCases(`${momentDtype} moments`, {}, (graph, updated, rates) =>
    applyLion(graph, updated, rates, { ...config, momentDtype, lionVariant: 'sign' }, countUpdate(graph)),
  ),
  ...updateCases(`${momentDtype} moments`, { 'lion.s': momentDtype }, (graph, updated, rates) =>
    applyLion(graph, updated, rates, { ...config, momentDtype, lionVariant: 'root' }, countUpdate(graph)),
  ),
]);
