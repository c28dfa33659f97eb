import { applyMuon } from '../../src/optim/muon.js';
import { updateCases } from '../support/update-cases.js';

const config = { momentum: 0.95, nesterov: true, newtonSchulzSteps: 1, muonLrAdjustment: 'match-rms-adamw' } as const;

export const cases = (['fp32', 'bf16'] as const).flatMap((productDtype) =>
  updateCases(`${productDtype} products`, {}, (graph, updated, rates) =>
    applyMuon(graph, updated, rates, { ...config, productDtype }),
  ),
);
