import { HadalError } from '../../src/core/errors.js';
import { batchFromRows } from '../../src/data/batch.js';
import { modelFromConfig } from '../../src/models/families.js';
import type { Model } from '../../src/models/model.js';
import type { PrecisionDType } from '../../src/passes/narrow.js';
import type { BackingFile } from '../../src/runtime/backing-file.js';
import { openDevice } from '../../src/runtime/device.js';
import type { Target } from '../../src/runtime/target.js';
import { compileProgram } from '../../src/train/compile-worker.js';
import { Planner, type PlanOptions, type Plans } from '../../src/train/planning.js';
import type { StepConfig } from '../../src/train/step.js';
import { defaultStepConfig } from '../../src/train/step-config.js';
import { Stepper, type UpdateInputs } from '../../src/train/stepper.js';
import { Rng } from '../support/rng.js';

/** A DeepSeek-V3 model with every part in small: q compression, a dense layer, experts in groups, one MTP module. */
export const tinyConfig = {
  model_type: 'deepseek_v3',
  vocab_size: 61,
  hidden_size: 24,
  intermediate_size: 40,
  moe_intermediate_size: 12,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  q_lora_rank: 12,
  kv_lora_rank: 10,
  qk_nope_head_dim: 8,
  qk_rope_head_dim: 6,
  v_head_dim: 7,
  n_routed_experts: 8,
  n_shared_experts: 1,
  num_experts_per_tok: 2,
  n_group: 2,
  topk_group: 1,
  first_k_dense_replace: 1,
  num_nextn_predict_layers: 1,
  max_position_embeddings: 64,
  initializer_range: 0.1,
};

export const tinyModel = () => modelFromConfig(tinyConfig);

export const stepConfig = (batch: number, seqLen: number, dtype: PrecisionDType = 'fp32'): StepConfig =>
  defaultStepConfig({ batch, seqLen }, dtype);

export const updateInputs = (step: number, change: Partial<UpdateInputs> = {}): UpdateInputs => ({
  lr: 3e-3,
  mtpWeight: 0.3,
  balanceWeight: 1e-3,
  routerBiasSpeed: 1e-3,
  seed: 7,
  step,
  ...change,
});

/** Rows of random tokens; `lengths` below seqLen are padded. */
export function randomRows(seed: number, lengths: readonly number[], vocab = 61): number[][] {
  const rng = new Rng(seed);
  return lengths.map((length) => Array.from({ length }, () => rng.integer(vocab)));
}

export const tinyBatch = (seed: number, lengths: readonly number[], seqLen: number) =>
  batchFromRows(randomRows(seed, lengths), { seqLen, mtpDepth: 1 });

interface TinyOptions {
  accumulates?: boolean;
  threads?: number;
  model?: Model;
  /** For what the config offloads. */
  file?: BackingFile | null;
}

/** What was planned in this test file: the same task gives the same plan, which nobody changes. */
const planned = new Map<string, ReturnType<typeof compileProgram>>();

/** A planner of tiny models, for which a thread of its own takes longer to begin than to plan. */
export const plannerHere = (model: Model, target: Target) =>
  new Planner(model, target, async (task) => {
    const key = JSON.stringify(task);
    const planning = planned.get(key) ?? compileProgram(task);
    planned.set(key, planning);
    const result = await planning;
    if ('value' in result) return result.value;
    throw new HadalError(result.error.code, result.error.message);
  });

/** The programs of a run of a tiny model. */
export const planHere = (
  model: Model,
  config: StepConfig,
  { threads, ...options }: PlanOptions & { threads: number },
): Promise<Plans> => plannerHere(model, threads).programs(config, options);

/** A stepper on its own device, initialised. */
export async function tinyStepper(config: StepConfig, options: TinyOptions = {}) {
  const { accumulates = false, threads = 2, model = tinyModel(), file = null } = options;
  const device = openDevice('cpu', { threads });
  const plans = await planHere(model, config, { threads, accumulates });
  const stepper = new Stepper(device, model, config, plans, file);
  await stepper.initialize(1);
  return {
    stepper,
    device,
    [Symbol.dispose]() {
      stepper.dispose();
      device.dispose();
    },
  };
}
