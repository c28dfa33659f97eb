// Gradients in 16 bits with error feedback. Seide et al. 2014 (1-bit stochastic gradient descent), §3.1, with more bits.
import { allReduce } from '../../ops/collectives.js';
import { cast, subtract } from '../../ops/elementwise.js';
import { dataRanks } from '../dist-config.js';
import type { Method } from './method.js';
import { keepResidual, residualOf, withResidual } from './residuals.js';

/** What is sent is rounded here already, so that the rounding is known; rounding of the sums on the way is lost. */
export const rounded = (wire: 'fp16' | 'bf16'): Method => ({
  suits: () => true,
  sums(graph, gradients, dist) {
    const sent = gradients.map(({ name, value }) => {
      const whole = withResidual(value, residualOf(graph, name, value.shape));
      const short = cast(cast(whole, wire), 'fp32');
      keepResidual(graph, name, subtract(whole, short));
      return short;
    });
    return allReduce(sent, { ...dataRanks(dist), op: 'sum', wire });
  },
});
