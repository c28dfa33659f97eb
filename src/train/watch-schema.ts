// The configuration's `watch`.
import { z } from 'zod';
import { count, countOrZero } from '../core/schema.js';

const ruleSchema = z
  .strictObject({
    metric: z
      .enum([
        'gradNorm',
        'activationRange',
        'zerosShare',
        'loss',
        'lossSpike',
        'lossVariance',
        'lossScale',
        'memory',
        'skippedSteps',
      ])
      .describe(
        'What is looked at. `gradNorm`: before clipping; `activationRange`, `zerosShare`: of the layer where they are largest; `lossSpike`: the loss in standard deviations above the mean of the 16 before it; `lossVariance`: of the last 64; `memory`: share of the machine in use; `skippedSteps`: in a row.',
      ),
    above: z.number().optional().describe('The rule applies beyond this value.'),
    below: z.number().optional().describe('The rule applies under this value.'),
    everySteps: count
      .optional()
      .describe('Updates between two looks. Without an interval a rule applies when its condition begins to hold.'),
    everySeconds: z.number().positive().optional().describe('Seconds between two looks.'),
    action: z
      .enum(['warn', 'skip', 'lowerLr', 'rollback', 'stop'])
      .describe(
        'Say so; leave the update out (of `gradNorm` above a value); multiply the learning rate with `factor`; go back to the last checkpoint and past the data since; or save and end.',
      ),
    factor: z.number().positive().lt(1).default(0.5).describe('Of `lowerLr`.'),
  })
  .refine(({ above, below }) => above !== undefined || below !== undefined, {
    error: "a rule with 'above' or 'below'",
    path: ['above'],
  })
  .refine(
    ({ action, metric, above, below, everySteps, everySeconds }) =>
      action !== 'skip' ||
      (metric === 'gradNorm' && above !== undefined && (below ?? everySteps ?? everySeconds) === undefined),
    { error: "'skip' only of metric 'gradNorm' with 'above' alone, looked at each update", path: ['action'] },
  );

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
  maxRollbacks: countOrZero
    .default(3)
    .describe('Rollbacks to one checkpoint, each past more of the data; after so many a run ends.'),
  activationsEvery: countOrZero
    .default(100)
    .describe('Updates between two in which the range of activations and their share of zeros are measured; 0: never.'),
  debugNumerics: z
    .boolean()
    .default(false)
    .describe('Find the op and the layer that made the first number that is not finite, report it and end.'),
});
