import { applySgd } from '../../src/optim/sgd.js';
import { updateCases } from '../support/update-cases.js';

export const cases = [0, 0.9].flatMap((momentum) =>
  updateCases('', {}, (graph, updated, rates) => applySgd(graph, updated, rates, { momentum, nesterov: true })),
);
