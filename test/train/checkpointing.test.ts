// Activation checkpointing changes what lies in memory and when, and no bit of what comes out.
import { beforeAll, describe, expect, it } from 'vitest';
import { batchFromRows } from '../../src/data/batch.js';
import { modelFromConfig } from '../../src/models/families.js';
import type { Model } from '../../src/models/model.js';
import type { PrecisionDType } from '../../src/passes/narrow.js';
import { type CompileTask, compileProgram } from '../../src/train/compile-worker.js';
import type { Plans } from '../../src/train/planning.js';
import type { StepConfig } from '../../src/train/step.js';
import { Stepper } from '../../src/train/stepper.js';
import { testDevice } from '../support/op-case.js';
import { randomRows, stepConfig, tinyConfig, updateInputs } from './tiny.js';

type Policy = StepConfig['activationCheckpointing'];

const models = {
  'DeepSeek-V3 with experts and MTP': { ...tinyConfig, num_hidden_layers: 4 },
  'DeepSeek-V2': {
    ...tinyConfig,
    model_type: 'deepseek_v2',
    q_lora_rank: null,
    topk_method: 'group_limited_greedy',
    num_nextn_predict_layers: 0,
    num_hidden_layers: 3,
  },
  'GPT-2 with dropout': { model_type: 'gpt2', vocab_size: 61, n_positions: 32, n_embd: 24, n_layer: 4, n_head: 2 },
  Llama: {
    model_type: 'llama',
    vocab_size: 61,
    hidden_size: 24,
    intermediate_size: 40,
    num_hidden_layers: 4,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    max_position_embeddings: 32,
    initializer_range: 0.1,
  },
};
const [batch, seqLen, steps] = [2, 16, 3];

async function plansOf(model: Model, step: StepConfig, accumulates: boolean, withinBytes?: number): Promise<Plans> {
  const parts = accumulates ? (['first', 'next', 'apply'] as const) : (['whole'] as const);
  const copies = step.precision.dtype === 'fp32' ? [] : (['working-copies'] as const);
  const plans: Plans = {};
  for (const program of ['initialization', ...copies, ...parts] as const) {
    const task: CompileTask = { model: model.toHuggingFace(), program, step, target: testDevice().target };
    const result = await compileProgram(withinBytes === undefined ? task : { ...task, withinBytes });
    if ('error' in result) throw new Error(result.error.message);
    plans[program] = result.value;
  }
  return plans;
}

/** Everything that a few updates leave behind, their metrics, and the arena they took. */
async function train(model: Model, step: StepConfig, plans: Plans) {
  using stepper = new Stepper(testDevice(), model, step, plans);
  await stepper.initialize(3);
  const metrics: unknown[] = [];
  const rows = (seed: number) => batchFromRows(randomRows(seed, [seqLen, 11]), { seqLen, mtpDepth: model.mtpDepth });
  for (let i = 0; i < steps; i++) {
    const window = plans.whole ? [rows(i)] : [rows(i), rows(i + 10), rows(i + 20)];
    const { times, ...told } = await stepper.update(window, updateInputs(i));
    metrics.push(told);
  }
  const state: [string, Uint8Array][] = [];
  for (const [name, tensor] of stepper.tensors) state.push([name, await tensor.read(new Uint8Array(tensor.bytes))]);
  return { metrics, state: new Map(state) };
}

type Trained = Awaited<ReturnType<typeof train>>;

function expectSameBits(found: Trained, expected: Trained): void {
  expect(found.metrics).toEqual(expected.metrics);
  expect([...found.state.keys()]).toEqual([...expected.state.keys()]);
  const differing = [...expected.state].filter(([name, bytes]) =>
    Buffer.compare(bytes, found.state.get(name) ?? bytes.slice(1)),
  );
  expect(differing.map(([name]) => name)).toEqual([]);
}

const arenaOf = ({ whole, first, next }: Plans) =>
  Math.max(...[whole, first, next].map((plan) => plan?.arenaBytes ?? 0));
const instructionsOf = ({ whole, first }: Plans) => (whole ?? first)?.instructions.length as number;

describe.each(Object.entries(models))('%s', (_, config) => {
  const model = modelFromConfig(config);
  const configOf = (dtype: PrecisionDType, activationCheckpointing: Policy): StepConfig => ({
    ...stepConfig(batch, seqLen, dtype),
    activationCheckpointing,
  });

  describe.each([
    ['fp32', false],
    ['bf16', true],
  ] as const)('in %s (accumulating: %s)', (dtype, accumulates) => {
    let plain: Trained;
    let plainPlans: Plans;
    beforeAll(async () => {
      const step = configOf(dtype, 'none');
      plainPlans = await plansOf(model, step, accumulates);
      plain = await train(model, step, plainPlans);
    });

    it.each<Policy>(['selective', 'sqrt', { every: 1 }])('has the same bits with %j', async (policy) => {
      const step = configOf(dtype, policy);
      const plans = await plansOf(model, step, accumulates);
      expect(instructionsOf(plans)).toBeGreaterThan(instructionsOf(plainPlans));
      expectSameBits(await train(model, step, plans), plain);
    });

    it('has the same bits within a budget, and keeps to it', async () => {
      const step = configOf(dtype, 'auto');
      const most = await plansOf(model, step, accumulates, 0);
      const [low, high] = [arenaOf(most), arenaOf(plainPlans)];
      const budget = Math.floor((low + high) / 2);
      const plans = await plansOf(model, step, accumulates, budget);
      expect(low).toBeLessThanOrEqual(high);
      expect(arenaOf(plans)).toBeLessThanOrEqual(budget);
      expect(instructionsOf(plans)).toBeLessThanOrEqual(instructionsOf(most));
      expectSameBits(await train(model, step, plans), plain);
      expect(arenaOf(await plansOf(model, step, accumulates))).toBe(high);
    });
  });
});

describe.each(['fp16', 'fp8'] as const)('in %s', (dtype) => {
  it('has the same bits', async () => {
    const model = modelFromConfig(models['DeepSeek-V3 with experts and MTP']);
    const runs: Trained[] = [];
    for (const activationCheckpointing of ['none', 'selective', { every: 1 }] as const) {
      const step = { ...stepConfig(batch, seqLen, dtype), activationCheckpointing };
      runs.push(await train(model, step, await plansOf(model, step, false)));
    }
    const [plain, ...others] = runs as [Trained, ...Trained[]];
    for (const found of others) expectSameBits(found, plain);
  });
});
