// Work that goes on until something ends it. Each begins when it is under way and tells how it ended: `pending` settles
// then, `dispose` ends it by its handle, and `again` uses the handle once more.
import { LoadedModel } from '../../../dist/generate/loaded-model.js';
import { modelFromConfig } from '../../../dist/models/families.js';
import { parametersOf } from '../../../dist/models/model.js';
import { openDevice } from '../../../dist/runtime/device.js';
import { train } from '../../../dist/train/train.js';
import { beginLongStep } from './long-step.mjs';

const threads = 2;

const config = {
  model_type: 'deepseek_v3',
  vocab_size: 512,
  hidden_size: 128,
  intermediate_size: 256,
  moe_intermediate_size: 64,
  num_hidden_layers: 3,
  num_attention_heads: 4,
  q_lora_rank: 64,
  kv_lora_rank: 32,
  qk_nope_head_dim: 32,
  qk_rope_head_dim: 16,
  v_head_dim: 32,
  n_routed_experts: 4,
  n_shared_experts: 1,
  num_experts_per_tok: 2,
  n_group: 1,
  topk_group: 1,
  first_k_dense_replace: 1,
  num_nextn_predict_layers: 0,
  max_position_embeddings: 512,
};

/** A model of zeros: it takes as long as any. */
export function openModel() {
  const model = modelFromConfig(config);
  const device = openDevice('cpu', { threads });
  const tensors = new Map();
  for (const { name, shape, dtype } of parametersOf(model).values()) tensors.set(name, device.allocate(shape, dtype));
  return new LoadedModel({ model, tensors, device, tokenizer: null }, { owns: true });
}

const rows = Array.from({ length: 4 }, (_, b) => Array.from({ length: 128 }, (_, t) => (7 * t + b) % 512));

/** One call of each kind. */
export const calls = {
  forward: (model) => model.forward(rows),
  lossAndGradients: (model) => model.lossAndGradients(rows, rows),
  async generate(model) {
    let count = 0;
    for await (const { id } of model.generate([1, 2, 3], { maxTokens: 100, ignoreEos: true })) count += Number(id >= 0);
    return count;
  },
};

async function beginCalls(call) {
  const model = openModel();
  await call(model); // compiled now
  const repeat = async () => {
    for (;;) await call(model);
  };
  return { pending: repeat(), dispose: () => model.dispose(), again: () => call(model) };
}

/** A training run; `folder` is its own, and has room for its data. */
export const trainRun = (folder, steps, signal) =>
  train(
    {
      model: { config: { ...config, vocab_size: 320, num_nextn_predict_layers: 1 } },
      data: { sources: ['synthetic'], cache: `${folder}/data` },
      out: `${folder}/run-${process.pid}-${steps}-${Math.random()}`,
      steps,
      batch: 4,
      seqLen: 64,
      evaluation: { batches: 1 },
      threads,
    },
    signal ? { signal } : {},
  );

/** A training run in its first steps. */
export async function beginTraining(folder) {
  const run = trainRun(folder, 100_000);
  for (let steps = 0; steps < 2; ) {
    const { value, done } = await run.next();
    if (done) throw new Error('the run ended before its time');
    steps += Number(value.type === 'step');
  }
  return run;
}

export const works = {
  async step() {
    const { device, step } = await beginLongStep();
    return { pending: step, dispose: () => device.dispose(), again: () => device.allocate([8], 'fp32').toFloat32() };
  },
  forward: () => beginCalls(calls.forward),
  lossAndGradients: () => beginCalls(calls.lossAndGradients),
  generate: () => beginCalls(calls.generate),
  async train(folder) {
    const run = await beginTraining(folder);
    const repeat = async () => {
      for (;;) if ((await run.next()).done) return;
    };
    return { pending: repeat(), dispose: () => run.return(), again: () => run.next() };
  },
};
