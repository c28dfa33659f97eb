// Configuration of a training run: typed data. The schema is applied at the edge (files, flags, the `train` call).
import { z } from 'zod';
import { HadalError } from '../core/errors.js';
import { type Problem, problemLines, problemsOf } from '../core/problems.js';
import { count, countOrAuto, countOrZero, share, weight } from '../core/schema.js';
import { dataSchema } from '../data/data-config.js';
import { economyFields } from '../models/economy-config.js';
import { devicePattern } from '../runtime/device.js';
import { distSchema } from './dist-schema.js';
import { memorySchema } from './memory-schema.js';
import { milestonesSchema, optimizerSchema } from './optimizer-schema.js';
import { precisionSchema } from './precision-schema.js';
import { watchSchema } from './watch-schema.js';

const scheduled = z.union([weight, milestonesSchema.min(1)], {
  error: 'a number from 0 on, or a list of { from, value }',
});

const modelSchema = z.union(
  [
    z.strictObject({
      config: z
        .record(z.string(), z.unknown())
        .describe(
          'Fields of a Hugging Face `config.json`, `model_type` among them; training starts from random weights.',
        ),
      ...economyFields,
    }),
    z.strictObject({
      directory: z
        .string()
        .describe(
          'A checkpoint, another model directory (config.json, safetensors) or a `.gguf` file; training starts from its weights.',
        ),
      ...economyFields,
    }),
  ],
  { error: 'either { config } or { directory }' },
);

const lossSchema = z.strictObject({
  labelSmoothing: share.default(0).describe('Share of the target probability that is spread over the vocabulary.'),
  zLoss: weight.default(0).describe('Weight of the squared log-normalizer of the logits, which keeps them small.'),
  mtpWeight: scheduled
    .default(0.3)
    .describe('λ: weight of the mean multi-token-prediction loss; or a list of values from shares of the run on.'),
  balanceWeight: weight.default(1e-4).describe('α: weight of the sequence-wise balance loss of the experts.'),
  routerBiasSpeed: scheduled
    .default(1e-3)
    .describe(
      "γ: how far an expert's routing bias moves an update, towards equal load; or a list of values from shares of the run on.",
    ),
});

const evaluationSchema = z.strictObject({
  every: countOrZero.default(0).describe('Updates between evaluations; 0: only before the first and after the last.'),
  batches: countOrZero.default(0).describe('Batches of held-out text an evaluation; 0: all of it.'),
});

const checkpointSchema = z.strictObject({
  every: countOrZero.default(0).describe('Updates between checkpoints; 0: only at the end.'),
  keep: count.default(2).describe('Newest checkpoints that are kept; older ones are deleted.'),
  best: countOrZero.default(0).describe('So many more are kept: those of the lowest held-out loss.'),
  background: z
    .boolean()
    .default(true)
    .describe('Save from a snapshot while training goes on; false: training waits until the checkpoint stands.'),
});

const batchRampSchema = z.strictObject({
  from: count.describe('Rows of the first update.'),
  steps: count.describe('Updates until there are `batch` rows, in equal steps of whole micro-batches.'),
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
  batch: countOrAuto.describe('Rows an update; `auto`: 80 % of the most that one micro-batch has room for in memory.'),
  seqLen: count.describe('Tokens a row.'),
  gradAccumulationSteps: countOrAuto
    .default(1)
    .describe(
      "An update's rows are computed in so many equal parts, whose gradients are summed; divides `batch`. `auto`: as few as memory has room for.",
    ),
  batchRamp: batchRampSchema.nullable().default(null).describe('Updates of fewer rows at the beginning; null: none.'),
  activationCheckpointing: z
    .union([
      z.enum(['none', 'selective', 'sqrt', 'auto']),
      z.strictObject({ every: count.describe('Layers between two whose input is kept.') }),
    ])
    .default('none')
    .describe(
      'What of the forward pass is computed once more in the backward pass instead of being kept: nothing, all but what products made, all but the input of every k-th or √n-th layer, or (`auto`) as little as the memory budget asks for. Results are the same, bit for bit.',
    ),
  memory: memorySchema.prefault({}).describe('What the run may take.'),
  optimizer: optimizerSchema.prefault({}).describe('The optimizer, the schedule of its learning rate, and clipping.'),
  loss: lossSchema.prefault({}).describe('Weights of the terms of the loss.'),
  evaluation: evaluationSchema.prefault({}).describe('Loss on held-out text.'),
  checkpoint: checkpointSchema.prefault({}).describe('When the run is saved.'),
  watch: watchSchema.prefault({}).describe('What is measured beside the loss, and what happens when it goes wrong.'),
  dist: distSchema
    .prefault({})
    .describe(
      'Training in several processes, which a launcher starts: `hadal launch`, torchrun, mpirun, Slurm, Kubernetes.',
    ),
  seed: countOrZero
    .max(2 ** 31 - 1)
    .default(0)
    .describe('Seed of weights and data order: the same seed, the same run.'),
  device: z
    .string()
    .regex(devicePattern, 'auto, cpu, cuda, cuda:<number> or cuda-sim')
    .default('auto')
    .describe(
      'Where to compute: `cpu`; `cuda` or `cuda:1`, a GPU; `cuda-sim`, the GPU’s kernels executed by the processor, slowly; `auto`: a GPU where there is one, else the processor.',
    ),
  dtype: z
    .enum(['auto', 'fp32', 'bf16', 'fp16', 'fp8'])
    .default('auto')
    .describe(
      'Number format of the computation; `auto`: bf16 where the machine has products for it, else fp32; `fp8`: bf16 whose linear products are rounded as DeepSeek-V3 does, emulated. Weights, gradients of weights, statistics, routing and loss are fp32 always.',
    ),
  precision: precisionSchema.prefault({}).describe('Exceptions to `dtype`, and how 16-bit floats are kept in range.'),
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
function problemsAcross(config: TrainConfig): Problem[] {
  const { batch, gradAccumulationSteps, batchRamp, optimizer, checkpoint, evaluation } = config;
  const { shape, milestones } = optimizer.schedule;
  const ofBest =
    checkpoint.best > 0 && evaluation.every === 0
      ? ['0 where evaluation.every is 0: the best are those of the lowest held-out loss', checkpoint.best]
      : null;
  const ofParts =
    typeof batch === 'number' && typeof gradAccumulationSteps === 'number' && batch % gradAccumulationSteps !== 0
      ? [`a divisor of batch ${batch}`, gradAccumulationSteps]
      : null;
  const ofRamp =
    batchRamp && typeof batch === 'number' ? rampProblem(batchRamp.from, batch, gradAccumulationSteps) : null;
  const ofSteps =
    shape === 'step' && milestones.length === 0 ? ["milestones, since its shape is 'step'", 'none'] : null;
  const problem = (path: string[], found: readonly unknown[] | null): Problem[] =>
    found ? [{ path, text: `field '${path.join('.')}' expected ${found[0]}, got ${found[1]}` }] : [];
  return [
    ...problem(['gradAccumulationSteps'], ofParts),
    ...problem(['batchRamp', 'from'], ofRamp),
    ...problem(['optimizer', 'schedule', 'milestones'], ofSteps),
    ...problem(['checkpoint', 'best'], ofBest),
    ...problem(['dist', 'zero'], zeroProblem(config)),
  ];
}

/** Shards are of gradients and states of single numbers, and sums of gradients reach their owners alone. */
function zeroProblem({ dist: { zero, compression }, optimizer, watch }: TrainConfig): readonly unknown[] | null {
  const { kind, errorFeedback } = compression;
  if (zero === 0) return null;
  if (watch.debugNumerics) return ['0 with watch.debugNumerics, which looks at whole weights', zero];
  if (optimizer.kind === 'muon' || optimizer.groups.some((group) => group.kind === 'muon'))
    return ['0 for muon, which takes whole matrices', zero];
  if (!['none', 'fp16', 'bf16'].includes(kind) || errorFeedback)
    return [
      `0 with dist.compression ${kind}${errorFeedback ? ' and errorFeedback' : ''}: shards are sent in fp32, fp16 or bf16`,
      zero,
    ];
  return null;
}

/** Rows grow by whole micro-batches, so that one is the least to begin with. */
function rampProblem(from: number, batch: number, parts: number | 'auto'): readonly unknown[] | null {
  if (from > batch) return [`at most batch ${batch}`, from];
  const micro = parts === 'auto' ? 1 : batch / parts;
  return from < micro && Number.isInteger(micro)
    ? [`at least a micro-batch of ${micro} rows (batch / gradAccumulationSteps)`, from]
    : null;
}
