// The configuration's `watch`.
import { z } from 'zod';
import { count, countOrZero } from '../core/schema.js';

const ruleSchema = z.strictObject({
  metric: z
    .enum(['gradNorm', 'activationRange', 'zerosShare', 'loss', 'lossSpike', 'lossVariance', 'memory', 'skippedSteps'])
    .describe('What is looked at. `lossSpike`: the loss in standard deviations above its running mean.'),
  above: z.number().optional().describe('The rule applies beyond this value.'),
  below: z.number().optional().describe('The rule applies under this value.'),
  everySteps: count.optional().describe('How often it is looked at; left out: as often as it is measured.'),
  everySeconds: z.number().positive().optional().describe('The same by the clock.'),
  action: z
    .enum(['warn', 'skip', 'lowerLr', 'rollback', 'stop'])
    .describe(
      'Say so; leave the update out (of `gradNorm`); multiply the learning rate with `factor`; go back to the last checkpoint and past the data since; or save and end.',
    ),
  factor: z.number().positive().lt(1).default(0.5).describe('Of `lowerLr`.'),
});

/** Schema of `watch`. */
export const watchSchema = z.strictObject({
  rules: z
    .array(ruleSchema)
    .default([
      { metric: 'gradNorm', above: 10, action: 'warn', factor: 0.5 },
      { metric: 'activationRange', above: 15, action: 'warn', factor: 0.5 },
      { metric: 'memory', above: 0.9, everySeconds: 60, action: 'warn', factor: 0.5 },
    ])
    .describe('What happens when a measure leaves its range.'),
  activationsEvery: countOrZero
    .default(100)
    .describe('Updates between two in which the range of activations and their share of zeros are measured; 0: never.'),
  debugNumerics: z
    .boolean()
    .default(false)
    .describe('Find the op and the layer that made the first number that is not finite, report it and end.'),
});
