import { describe, expect, it } from 'vitest';
import { modelFromConfig } from '../../src/models/families.js';
import { parametersOf } from '../../src/models/model.js';
import type { OptimizerConfig } from '../../src/optim/optimizer.js';
import { roundTo } from '../support/compare.js';
import { tinyConfig } from '../train/tiny.js';
import { filled, plainConfig, runUpdates } from './run-updates.js';

const gpt2Config = { model_type: 'gpt2', vocab_size: 61, n_positions: 32, n_embd: 16, n_layer: 2, n_head: 2 };
const groupsOf = (config: object) => {
  const parameters = [...parametersOf(modelFromConfig(config)).values()];
  const named = (which: (typeof parameters)[number][]) => which.map(({ name }) => name);
  return {
    decayed: named(parameters.filter(({ decay, trainable }) => trainable && decay)),
    plain: named(parameters.filter(({ decay, trainable }) => trainable && !decay)),
    untouched: named(parameters.filter(({ trainable }) => !trainable)),
  };
};

describe('decay groups', () => {
  it('of DeepSeek: matrices decay, norms do not, the router bias is not the optimizer’s', () => {
    const { decayed, plain, untouched } = groupsOf({ ...tinyConfig, num_hidden_layers: 3 });
    expect(plain.length).toBeGreaterThan(0);
    for (const name of plain) expect(name).toMatch(/(norm|layernorm)\.weight$/);
    for (const name of decayed) expect(name).not.toMatch(/norm|bias/);
    expect(decayed).toEqual(
      expect.arrayContaining([
        'model.embed_tokens.weight',
        'lm_head.weight',
        'model.layers.1.mlp.gate.weight',
        'model.layers.0.mlp.down_proj.weight',
        'model.layers.0.self_attn.kv_b_proj.weight',
      ]),
    );
    expect(untouched).toEqual([1, 2, 3].map((layer) => `model.layers.${layer}.mlp.gate.e_score_correction_bias`));
  });

  it('of GPT-2: matrices decay, norms and biases do not', () => {
    const { decayed, plain, untouched } = groupsOf(gpt2Config);
    for (const name of plain) expect(name).toMatch(/(\.ln_(1|2|f)\.weight|\.bias)$/);
    for (const name of decayed) expect(name).toMatch(/(wte|wpe|c_attn|c_proj|c_fc)\.weight$/);
    expect(plain).toHaveLength(2 * 2 * 2 + 2 + 2 * 4);
    expect(decayed).toHaveLength(2 + 2 * 4);
    expect(untouched).toEqual([]);
  });
});

describe('AdamW', () => {
  const parameters = [
    { name: 'matrix', shape: [3, 5], dtype: 'fp32' as const, decay: true },
    { name: 'norm', shape: [7], dtype: 'fp32' as const, decay: false },
  ];

  /** Runs some updates of two parameters, of which 'matrix' decays, with a constant gradient. */
  async function run(updates: number, gradient: number, { gradScale = 1, ...change }: Change = {}) {
    const config = { ...plainConfig, beta1: 0.8, beta2: 0.9, weightDecay: 0.5, ...change };
    const all = (value: number) => Object.fromEntries(parameters.map((one) => [one.name, filled(one, value)]));
    const copies = new Map([['matrix', { slot: 'copy/matrix', dtype: 'bf16' as const }]]);
    const grads = Array.from({ length: updates }, () => all(gradient));
    const slots = (await runUpdates(config, { parameters, begin: all(2), grads, lr: 0.1, gradScale, copies })).at(-1)!;
    const read = (name: string) => {
      expect(new Set(slots[name]).size, `${name} is the same everywhere`).toBe(1);
      return slots[name]![0] as number;
    };
    return {
      ...{ matrix: read('matrix'), copy: read('copy/matrix'), norm: read('norm'), count: read('state/updates') },
      ...{ m: read('adam.m/matrix'), v: read('adam.v/matrix') },
    };
  }

  it('decays matrices by lr · weightDecay an update, and nothing else', async () => {
    const { matrix, norm, count } = await run(3, 0);
    expect(matrix).toBeCloseTo(2 * (1 - 0.1 * 0.5) ** 3, 5);
    expect(norm).toBe(2);
    expect(count).toBe(3);
  });

  it('decays matrices by lr · l4Decay · w³ beside it', async () => {
    const { matrix, norm } = await run(2, 0, { l4Decay: 0.05 });
    const next = (w: number) => w - 0.1 * (0.5 * w + 0.05 * w ** 3);
    expect(matrix).toBeCloseTo(next(next(2)), 6);
    expect(norm).toBe(2);
  });

  it('corrects the moments’ bias: a constant gradient moves by lr an update', async () => {
    const { norm, m, v } = await run(4, 0.3);
    expect(norm).toBeCloseTo(2 - 4 * 0.1, 5);
    expect(m).toBeCloseTo(0.3 * (1 - 0.8 ** 4), 6);
    expect(v).toBeCloseTo(0.09 * (1 - 0.9 ** 4), 6);
  });

  it('corrects it where β change: the same', async () => {
    const { norm, m } = await run(4, 0.3, { betaSchedule: { beta1End: 0.3, beta2End: 0.999, power: 1.5 }, steps: 6 });
    expect(norm).toBeCloseTo(2 - 4 * 0.1, 5);
    const left = [0, 1, 2, 3].map((t) => 0.3 + (0.8 - 0.3) * (1 - t / 6) ** 1.5);
    expect(m).toBeCloseTo(0.3 * (1 - left.reduce((a, b) => a * b)), 6);
  });

  it('takes the gradient scaled by what clipping says', async () => {
    const { m, v } = await run(1, 0.3, { gradScale: 0.25 });
    expect(m).toBeCloseTo(0.2 * 0.075, 6);
    expect(v).toBeCloseTo(0.1 * 0.075 ** 2, 7);
  });

  it('keeps working copies in bf16, rounded from the parameters after each update', async () => {
    const { matrix, copy } = await run(3, 0.37);
    expect(matrix).not.toBe(copy);
    expect(copy).toBe(roundTo('bf16', matrix));
  });

  it('keeps moments in bf16 rounded to nearest', async () => {
    const { m, v, norm } = await run(3, 0.37, { momentDtype: 'bf16' });
    const r = (x: number) => roundTo('bf16', Math.fround(x));
    const last = { m: 0, v: 0 };
    for (let i = 0; i < 3; i++) {
      last.m = r(0.8 * last.m + 0.2 * 0.37);
      last.v = r(0.9 * last.v + 0.1 * 0.37 ** 2);
    }
    expect({ m, v }).toEqual(last);
    expect(norm).toBeCloseTo(2 - 3 * 0.1, 2);
  });

  it('does not take moments in bf16 that could not follow', () => {
    const changes = [{ beta2: 0.999 }, { betaSchedule: { beta2End: 0.995, power: 1 } }];
    return Promise.all(
      changes.map((change) =>
        expect(run(1, 0, { momentDtype: 'bf16', ...change })).rejects.toMatchObject({
          code: 'HADAL_ERR_CONFIG',
          message: expect.stringMatching(/at most 0.99 .* momentDtype fp32/),
        }),
      ),
    );
  });
});

type Change = Partial<OptimizerConfig> & { gradScale?: number };
