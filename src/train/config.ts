// Configuration of a training run: typed data. The schema is applied at the edge (files, flags, the `train` call).
import { z } from 'zod';
import { HadalError } from '../core/errors.js';
import { expectationOf, shown } from '../core/expectation.js';
import { nearest } from '../core/nearest.js';
import { dataSchema } from '../data/data-config.js';

const count = z
  .number()
  .int()
  .positive()
  .max(2 ** 31 - 1);
const countOrZero = z.number().int().nonnegative();
const share = z.number().min(0).lt(1);
const weight = z.number().nonnegative();

const schema = z.strictObject({
  /** The model: a Hugging Face config (from scratch), or a directory whose weights training starts from. */
  model: z.union(
    [z.strictObject({ config: z.record(z.string(), z.unknown()) }), z.strictObject({ directory: z.string() })],
    { error: 'either { config } or { directory }' },
  ),
  data: dataSchema,
  /** Run directory. */
  out: z.string(),
  /** Updates of the whole run. */
  steps: count,
  /** Rows an update, and tokens a row. */
  batch: count,
  seqLen: count,
  /** An update's rows are computed in so many equal parts whose gradients are summed. */
  gradAccumulationSteps: count.default(1),
  optimizer: z
    .strictObject({
      lr: z.number().positive().default(1e-3),
      /** Learning rate at the end of the cosine, as a share of `lr`. */
      minLrRatio: z.number().min(0).max(1).default(0.1),
      warmupSteps: countOrZero.default(20),
      beta1: share.default(0.9),
      beta2: share.default(0.95),
      eps: z.number().positive().default(1e-8),
      weightDecay: weight.default(0.1),
      /** Gradients of a greater global norm are scaled down to it. */
      clipNorm: z.number().positive().default(1),
    })
    .prefault({}),
  loss: z
    .strictObject({
      labelSmoothing: share.default(0),
      zLoss: weight.default(0),
      /** λ: weight of the mean multi-token-prediction loss. */
      mtpWeight: weight.default(0.3),
      /** α: weight of the sequence-wise balance loss. */
      balanceWeight: weight.default(1e-4),
      /** γ: how far the router's correction bias moves an update. */
      routerBiasSpeed: weight.default(1e-3),
    })
    .prefault({}),
  evaluation: z
    .strictObject({
      /** Updates between evaluations; 0: only at the end. */
      every: countOrZero.default(0),
      /** Batches an evaluation; 0: all held-out text. */
      batches: countOrZero.default(0),
    })
    .prefault({}),
  checkpoint: z
    .strictObject({
      /** Updates between checkpoints; 0: only at the end. */
      every: countOrZero.default(0),
      /** Newest checkpoints that are kept. */
      keep: count.default(2),
    })
    .prefault({}),
  seed: countOrZero.max(2 ** 31 - 1).default(0),
  device: z.enum(['auto', 'cpu']).default('auto'),
  dtype: z.enum(['fp32']).default('fp32'),
  /** Executor threads; null: the machine's processors. */
  threads: count.nullable().default(null),
  /** Continue what is in the run directory, or start when there is nothing. */
  resume: z.boolean().default(false),
});

/** What `train` takes: defaults may be left out. */
export type TrainOptions = z.input<typeof schema>;

/** A resolved configuration. */
export type TrainConfig = z.output<typeof schema>;

/**
 * Checks a configuration and fills in defaults.
 *
 * @throws HadalError HADAL_ERR_CONFIG naming the field, with the nearest known name where it is unknown
 */
export function resolveTrainConfig(options: unknown, source = 'config'): TrainConfig {
  const parsed = schema.safeParse(options);
  if (parsed.success) {
    const { batch, gradAccumulationSteps } = parsed.data;
    if (batch % gradAccumulationSteps === 0) return parsed.data;
    throw new HadalError(
      'HADAL_ERR_CONFIG',
      `[${source}] field 'gradAccumulationSteps' expected a divisor of batch ${batch}, got ${gradAccumulationSteps}`,
    );
  }
  // A misspelt name says more than the field that is then missing.
  const { issues } = parsed.error;
  const issue = (issues.find(({ code }) => code === 'unrecognized_keys') ?? issues[0]) as z.core.$ZodIssue;
  const path = issue.path.map(String);
  if (issue.code === 'unrecognized_keys') {
    const key = issue.keys[0] as string;
    const hint = nearest(key, fieldsAt(path));
    const full = [...path, key].join('.');
    throw new HadalError(
      'HADAL_ERR_CONFIG',
      `[${source}] field '${full}' is unknown${hint ? `; did you mean '${hint}'?` : ''}`,
    );
  }
  const got = path.reduce<unknown>((value, key) => (value as Record<string, unknown> | undefined)?.[key], options);
  const field = path.length > 0 ? `field '${path.join('.')}' ` : '';
  throw new HadalError('HADAL_ERR_CONFIG', `[${source}] ${field}expected ${expectationOf(issue)}, got ${shown(got)}`);
}

/** Names of the fields of the object at a path. */
function fieldsAt(path: readonly string[]): string[] {
  let type: unknown = schema;
  for (const key of ['', ...path]) {
    if (key) type = (type as { shape?: Record<string, unknown> }).shape?.[key];
    while (type && !(type as { shape?: unknown }).shape && (type as { unwrap?: () => unknown }).unwrap) {
      type = (type as { unwrap: () => unknown }).unwrap();
    }
  }
  return Object.keys((type as { shape?: Record<string, unknown> } | undefined)?.shape ?? {});
}
