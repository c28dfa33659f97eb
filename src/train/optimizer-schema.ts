// The configuration's `optimizer`: what updates the weights, how fast, within which bounds.
import { z } from 'zod';
import { count, countOrZero, share, weight } from '../core/schema.js';

const ratio = z.number().min(0).max(1);

/** From a share of the run on, a value. */
export const milestonesSchema = z
  .array(
    z.strictObject({
      from: ratio.describe('Share of the run from which the value counts.'),
      value: weight.describe('The value that counts from there on.'),
    }),
  )
  .refine((milestones) => milestones.every(({ from }, i) => i === 0 || from > (milestones[i - 1]?.from ?? 0)), {
    error: 'milestones whose `from` rises',
  });

const scheduleSchema = z.strictObject({
  shape: z
    .enum(['constant', 'cosine', 'polynomial', 'warmup-stable-decay', 'deepseek-v3', 'step'])
    .default('cosine')
    .describe(
      'What the learning rate does after warm-up. `deepseek-v3`: the plateaus and the cosine of that paper, by shares of the run.',
    ),
  power: z.number().positive().default(1).describe('Exponent of `polynomial`; 1: a straight line.'),
  decayShare: z
    .number()
    .positive()
    .max(1)
    .default(0.2)
    .describe('Share of the updates after warm-up in which `warmup-stable-decay` comes down.'),
  decay: z.enum(['linear', 'cosine', 'sqrt']).default('cosine').describe('How `warmup-stable-decay` comes down.'),
  milestones: milestonesSchema
    .default([])
    .describe('Of `step`: from which shares of the run on the learning rate is which share of `lr`.'),
});

const kind = z.enum(['adamw', 'lion', 'muon', 'sgd']);

const groupSchema = z.strictObject({
  match: z.string().describe('Names of parameters; `*` any characters, `{a,b}` one of several.'),
  kind: kind.optional().describe('Another optimizer for them.'),
  lrRatio: weight.optional().describe('Their learning rate, as a share of the others’.'),
  weightDecay: weight.optional().describe('Their weight decay.'),
  trainable: z.boolean().optional().describe('False: they stay as they are.'),
});

const adaptiveClipSchema = z.strictObject({
  quantile: share.default(0.9).describe('Which quantile of the last norms.'),
  window: count.max(1024).default(100).describe('How many norms are remembered.'),
  factor: z.number().positive().default(2).describe('The bound, as a multiple of that quantile.'),
});

const betaScheduleSchema = z.strictObject({
  beta1End: share.optional().describe('β1 at the end of the run; left out: it stays.'),
  beta2End: share.optional().describe('β2 at the end of the run; left out: it stays.'),
  power: z.number().positive().default(1).describe('Exponent p of β_t = end + (begin − end)·(1 − t/T)^p.'),
});

/** Schema of `optimizer`. */
export const optimizerSchema = z.strictObject({
  kind: kind
    .default('adamw')
    .describe('What updates the weights. `muon`: the matrices of layers by Muon, the others by AdamW.'),
  lr: z.number().positive().default(1e-3).describe('Learning rate after warm-up, the highest of the run.'),
  minLrRatio: ratio.default(0.1).describe('Learning rate at the end of the schedule, as a share of `lr`.'),
  warmupSteps: countOrZero.default(20).describe('Updates during which the learning rate rises from 0 to `lr`.'),
  warmupShare: share.nullable().default(null).describe('The same as a share of the run; null: `warmupSteps` counts.'),
  schedule: scheduleSchema.prefault({}).describe('What the learning rate does after warm-up.'),
  beta1: share.default(0.9).describe('Decay of the running mean of gradients, an update.'),
  beta2: share
    .default(0.95)
    .describe('Decay of the running mean of squared gradients, an update. Lion: of the gradients kept.'),
  betaSchedule: betaScheduleSchema.nullable().default(null).describe('β1 and β2 that change over the run.'),
  eps: z.number().positive().default(1e-8).describe('Added to the root of the squared mean, against division by zero.'),
  weightDecay: weight
    .default(0.1)
    .describe('Decoupled weight decay of matrices, times the learning rate; norms and biases have none.'),
  l4Decay: weight.default(0).describe('λ₄ of a decay by λ₄·w³ beside it, times the learning rate. AdamW only.'),
  momentDtype: z.enum(['fp32', 'bf16']).default('fp32').describe('Number format of the moments of AdamW and Lion.'),
  lionVariant: z
    .enum(['sign', 'root'])
    .default('sign')
    .describe('Lion of the paper, or sign(m)/(√s + eps) with m and s as AdamW has them.'),
  momentum: share.default(0.95).describe('Of SGD and Muon.'),
  nesterov: z.boolean().default(true).describe('Whether SGD and Muon look ahead.'),
  newtonSchulzSteps: count.max(20).default(5).describe('Iterations by which Muon makes an update orthogonal.'),
  muonLrAdjustment: z
    .enum(['original', 'match-rms-adamw'])
    .default('match-rms-adamw')
    .describe('Factor of Muon’s learning rate by a matrix’s shape: √max(1, out/in), or 0.2·√max(out, in).'),
  groups: z
    .array(groupSchema)
    .default([])
    .describe('Parameters that are treated otherwise; of several that match, the last counts, field by field.'),
  clipNorm: z
    .number()
    .positive()
    .nullable()
    .default(1)
    .describe('Gradients of a greater global L2 norm are scaled down to it; null: they are not.'),
  clipValue: z
    .number()
    .positive()
    .nullable()
    .default(null)
    .describe('Elements of gradients of a greater absolute value are cut to it, before the norm is taken; null: none.'),
  adaptiveClip: adaptiveClipSchema
    .nullable()
    .default(null)
    .describe('A bound of the norm that follows the norms of the last updates; null: none.'),
  emaDecay: share
    .nullable()
    .default(null)
    .describe('Decay, an update, of a running mean of the weights, kept beside them; null: none.'),
});
