// Configuration of a training run: typed data. The schema is applied at the edge (files, flags, the `train` call).
import { z } from 'zod';
import { HadalError } from '../core/errors.js';
import { type Problem, problemLines, problemsOf } from '../core/problems.js';
import { count, countOrZero } from '../core/schema.js';
import { dataSchema } from '../data/data-config.js';

const share = z.number().min(0).lt(1);
const weight = z.number().nonnegative();

const modelSchema = z.union(
  [
    z.strictObject({
      config: z
        .record(z.string(), z.unknown())
        .describe(
          'Fields of a Hugging Face `config.json`, `model_type` among them; training starts from random weights.',
        ),
    }),
    z.strictObject({
      directory: z
        .string()
        .describe(
          'A checkpoint, another model directory (config.json, safetensors) or a `.gguf` file; training starts from its weights.',
        ),
    }),
  ],
  { error: 'either { config } or { directory }' },
);

const optimizerSchema = z.strictObject({
  lr: z.number().positive().default(1e-3).describe('Learning rate after warm-up, the highest of the run.'),
  minLrRatio: z
    .number()
    .min(0)
    .max(1)
    .default(0.1)
    .describe('Learning rate at the end of the cosine, as a share of `lr`.'),
  warmupSteps: countOrZero.default(20).describe('Updates during which the learning rate rises from 0 to `lr`.'),
  beta1: share.default(0.9).describe('Decay of the running mean of gradients, an update.'),
  beta2: share.default(0.95).describe('Decay of the running mean of squared gradients, an update.'),
  eps: z.number().positive().default(1e-8).describe('Added to the root of the squared mean, against division by zero.'),
  weightDecay: weight
    .default(0.1)
    .describe('Decoupled weight decay of matrices, times the learning rate; norms and biases have none.'),
  clipNorm: z.number().positive().default(1).describe('Gradients of a greater global L2 norm are scaled down to it.'),
});

const lossSchema = z.strictObject({
  labelSmoothing: share.default(0).describe('Share of the target probability that is spread over the vocabulary.'),
  zLoss: weight.default(0).describe('Weight of the squared log-normalizer of the logits, which keeps them small.'),
  mtpWeight: weight.default(0.3).describe('λ: weight of the mean multi-token-prediction loss.'),
  balanceWeight: weight.default(1e-4).describe('α: weight of the sequence-wise balance loss of the experts.'),
  routerBiasSpeed: weight
    .default(1e-3)
    .describe("γ: how far an expert's routing bias moves an update, towards equal load."),
});

const evaluationSchema = z.strictObject({
  every: countOrZero.default(0).describe('Updates between evaluations; 0: only before the first and after the last.'),
  batches: countOrZero.default(0).describe('Batches of held-out text an evaluation; 0: all of it.'),
});

const checkpointSchema = z.strictObject({
  every: countOrZero.default(0).describe('Updates between checkpoints; 0: only at the end.'),
  keep: count.default(2).describe('Newest checkpoints that are kept; older ones are deleted.'),
});

/** Schema of a whole training configuration. Reference pages and the published JSON schema are made from it. */
export const trainSchema = z.strictObject({
  model: modelSchema.describe(
    'The model: its shape, to start from random weights, or a directory or `.gguf` file, to go on from its weights.',
  ),
  data: dataSchema.describe('What is trained on.'),
  out: z
    .string()
    .describe(
      'Run directory: checkpoints, metrics, the resolved configuration. The command line counts on: `runs/<name>-1`, `-2`, …',
    ),
  steps: count.describe('Updates of the whole run.'),
  batch: count.describe('Rows an update.'),
  seqLen: count.describe('Tokens a row.'),
  gradAccumulationSteps: count
    .default(1)
    .describe("An update's rows are computed in so many equal parts, whose gradients are summed; divides `batch`."),
  optimizer: optimizerSchema.prefault({}).describe('AdamW and its schedule: linear warm-up, then a cosine.'),
  loss: lossSchema.prefault({}).describe('Weights of the terms of the loss.'),
  evaluation: evaluationSchema.prefault({}).describe('Loss on held-out text.'),
  checkpoint: checkpointSchema.prefault({}).describe('When the run is saved.'),
  seed: countOrZero
    .max(2 ** 31 - 1)
    .default(0)
    .describe('Seed of weights and data order: the same seed, the same run.'),
  device: z.enum(['auto', 'cpu']).default('auto').describe('Where to compute; `auto`: the best device there is.'),
  dtype: z
    .enum(['auto', 'fp32', 'bf16'])
    .default('auto')
    .describe(
      'Number format of the computation; `auto`: bf16 where the machine has products for it, else fp32. Weights, moments, gradients of weights, statistics, routing and loss are fp32 always.',
    ),
  threads: count
    .nullable()
    .default(null)
    .describe('Threads of the computation; null: as many as there are processors that the process may use.'),
  pinThreads: z
    .boolean()
    .default(false)
    .describe('Bind each of them to a processor of its own (Linux); for a machine that does nothing else.'),
  resume: z.boolean().default(false).describe('Continue what is in the run directory, or start when there is nothing.'),
});

/** A resolved configuration. */
export type TrainConfig = z.output<typeof trainSchema>;

/**
 * Checks a configuration and fills in defaults.
 *
 * @param source - what messages name: a file, or for each field the place where it is set
 * @throws HadalError HADAL_ERR_CONFIG naming the fields, a line each, with the nearest known name where one is unknown
 */
export function resolveTrainConfig(
  options: unknown,
  source: string | ((path: readonly string[]) => string) = 'config',
): TrainConfig {
  const parsed = trainSchema.safeParse(options);
  const problems = parsed.success ? problemsAcross(parsed.data) : problemsOf(trainSchema, parsed.error, options);
  if (parsed.success && problems.length === 0) return parsed.data;
  throw new HadalError('HADAL_ERR_CONFIG', problemLines(problems, typeof source === 'string' ? () => source : source));
}

/** What no field can tell alone. */
function problemsAcross({ batch, gradAccumulationSteps }: TrainConfig): Problem[] {
  if (batch % gradAccumulationSteps === 0) return [];
  const text = `field 'gradAccumulationSteps' expected a divisor of batch ${batch}, got ${gradAccumulationSteps}`;
  return [{ path: ['gradAccumulationSteps'], text }];
}
