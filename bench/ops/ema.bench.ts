import { ema } from '../../src/ops/ema.js';
import { updateCases } from '../support/update-cases.js';

export const cases = updateCases('', {}, (graph, updated, { gradScale }) => {
  const tensors = updated.map(({ parameter: { name, shape, dtype } }) => ({
    x: graph.slot(name, shape, dtype),
    mean: graph.slot(`ema/${name}`, shape, 'fp32'),
  }));
  for (const [i, mean] of ema(tensors, gradScale).entries()) graph.update(`ema/p${i}`, mean);
});
