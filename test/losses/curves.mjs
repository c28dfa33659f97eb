// Trains small models for a few steps and prints their loss curves as JSON. Runs the compiled files, in a process of its
// own, since an instruction set is chosen once a process.
import { cpus } from 'node:os';
import { loadAddon } from '../../dist/addon/addon.js';
import { batchFromRows } from '../../dist/data/batch.js';
import { randomUint32 } from '../../dist/data/shuffle.js';
import { modelFromConfig } from '../../dist/models/families.js';
import { openDevice } from '../../dist/runtime/device.js';
import { planPrograms } from '../../dist/train/planning.js';
import { defaultStepConfig } from '../../dist/train/step-config.js';
import { Stepper } from '../../dist/train/stepper.js';

const deepseek = {
  vocab_size: 97,
  hidden_size: 32,
  intermediate_size: 56,
  moe_intermediate_size: 20,
  num_hidden_layers: 3,
  num_attention_heads: 4,
  q_lora_rank: 24,
  kv_lora_rank: 20,
  qk_nope_head_dim: 12,
  qk_rope_head_dim: 8,
  v_head_dim: 12,
  n_routed_experts: 8,
  n_shared_experts: 1,
  num_experts_per_tok: 3,
  n_group: 4,
  topk_group: 2,
  first_k_dense_replace: 1,
  max_position_embeddings: 64,
  initializer_range: 0.05,
};
const yarn = { type: 'yarn', factor: 4, original_max_position_embeddings: 16, mscale: 0.7, mscale_all_dim: 0.7 };
const configs = {
  deepseek_v3: { ...deepseek, model_type: 'deepseek_v3', num_nextn_predict_layers: 1, routed_scaling_factor: 2.5 },
  deepseek_v2: {
    ...deepseek,
    model_type: 'deepseek_v2',
    q_lora_rank: null,
    topk_method: 'group_limited_greedy',
    rope_scaling: yarn,
  },
  // With dropout: its random numbers are part of the curve.
  gpt2: { model_type: 'gpt2', vocab_size: 97, n_positions: 64, n_embd: 32, n_layer: 3, n_head: 4 },
  qwen2: {
    model_type: 'qwen2',
    vocab_size: 97,
    hidden_size: 32,
    intermediate_size: 56,
    num_hidden_layers: 3,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    max_position_embeddings: 64,
    initializer_range: 0.05,
    tie_word_embeddings: true,
  },
};

const threads = 2;
const steps = 20;
const seqLen = 40;
const update = { mtpWeight: 0.3, balanceWeight: 1e-2, routerBiasSpeed: 1e-2, seed: 11 };

/** Rows that count by ones, twos or threes: they can be learnt. Two micro-batches, one of them with a short row. */
function windowOf(step, mtpDepth) {
  const next = randomUint32(step, 3);
  const row = (length) => {
    const [first, by] = [next() % 97, 1 + (next() % 3)];
    return Array.from({ length }, (_, i) => (first + by * i) % 97);
  };
  const rows = [row(seqLen), row(seqLen), row(seqLen), row(17)];
  return [rows.slice(0, 2), rows.slice(2)].map((part) => batchFromRows(part, { seqLen, mtpDepth }));
}

async function curveOf(config) {
  const model = modelFromConfig(config);
  const step = { ...defaultStepConfig({ batch: 2, seqLen }, 'fp32'), labelSmoothing: 0.05, zLoss: 1e-4 };
  const device = openDevice('cpu', { threads });
  const stepper = new Stepper(
    device,
    model,
    step,
    await planPrograms(model, step, { target: threads, accumulates: true }),
  );
  await stepper.initialize(1);
  const curve = [];
  for (let i = 0; i < steps; i++) {
    const { loss } = await stepper.update(windowOf(i, model.mtpDepth), { ...update, lr: 3e-3, step: i });
    curve.push(loss);
  }
  stepper.dispose();
  device.dispose();
  return curve;
}

const { isa, onednn } = loadAddon().features();
const curves = {};
for (const [name, config] of Object.entries(configs)) curves[name] = await curveOf(config);
console.log(JSON.stringify({ machine: { cpu: cpus()[0]?.model, isa, onednn, threads }, curves }));
