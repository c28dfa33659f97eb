import { describe, expect, it } from 'vitest';
import { Graph } from '../../src/graph/graph.js';
import { modelFromConfig } from '../../src/models/families.js';
import { parametersOf } from '../../src/models/model.js';
import { applyAdamw, momentSlots, updatesSlot } from '../../src/optim/adamw.js';
import { compile } from '../../src/runtime/compile.js';
import { roundTo } from '../support/compare.js';
import { toFloats } from '../support/float-bytes.js';
import { testDevice } from '../support/op-case.js';
import { tinyConfig } from '../train/tiny.js';

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

describe('applyAdamw', () => {
  /** Runs some updates of two parameters, of which 'matrix' decays, with a constant gradient. */
  async function run(updates: number, gradient: number, gradScale = 1) {
    const config = { beta1: 0.8, beta2: 0.9, eps: 1e-8, weightDecay: 0.5 };
    const shapes = { matrix: [3, 5], norm: [7] };
    const graph = new Graph();
    const parameters = Object.entries(shapes).map(([name, shape]) => {
      return { name, shape, dtype: 'fp32' as const, decay: name === 'matrix' };
    });
    const grads = parameters.map(({ name, shape }) => graph.input(`g.${name}`, shape, 'fp32'));
    const scalars = { lr: graph.input('lr', [1], 'fp32'), gradScale: graph.input('gradScale', [1], 'fp32') };
    applyAdamw(graph, parameters, grads, scalars, config, ({ name }) => (name === 'matrix' ? 'copy/matrix' : null));
    const device = testDevice();
    const program = device.load(compile(graph, device.threads));
    const slots = Object.fromEntries(
      program.slots.map(({ name, shape, dtype }) => [name, device.allocate(shape, dtype)]),
    );
    const inputs: Record<string, Float32Array> = { lr: Float32Array.of(0.1), gradScale: Float32Array.of(gradScale) };
    for (const [name, shape] of Object.entries(shapes)) {
      const size = shape.reduce((a, b) => a * b);
      await slots[name]?.write(new Float32Array(size).fill(2));
      inputs[`g.${name}`] = new Float32Array(size).fill(gradient);
    }
    for (let i = 0; i < updates; i++) await device.run([{ program, slots, inputs }]);
    const read = async (name: string) => {
      using tensor = slots[name] as NonNullable<(typeof slots)[string]>;
      const values = toFloats(await tensor.read(new Uint8Array(tensor.bytes)), tensor.dtype);
      expect(new Set(values).size, `${name} is the same everywhere`).toBe(1);
      return values[0] as number;
    };
    const names = ['matrix', 'copy/matrix', 'norm', updatesSlot, ...momentSlots('matrix')];
    const [matrix, copy, norm, count, m, v] = (await Promise.all(names.map(read))) as [
      ...[number, number, number, number, number, number],
    ];
    return { matrix, copy, norm, count, m, v };
  }

  it('decays matrices by lr · weightDecay an update, and nothing else', async () => {
    const { matrix, norm, count } = await run(3, 0);
    expect(matrix).toBeCloseTo(2 * (1 - 0.1 * 0.5) ** 3, 5);
    expect(norm).toBe(2);
    expect(count).toBe(3);
  });

  it('corrects the moments’ bias: a constant gradient moves by lr an update', async () => {
    const { norm, m, v } = await run(4, 0.3);
    expect(norm).toBeCloseTo(2 - 4 * 0.1, 5);
    expect(m).toBeCloseTo(0.3 * (1 - 0.8 ** 4), 6);
    expect(v).toBeCloseTo(0.09 * (1 - 0.9 ** 4), 6);
  });

  it('takes the gradient scaled by what clipping says', async () => {
    const { m, v } = await run(1, 0.3, 0.25);
    expect(m).toBeCloseTo(0.2 * 0.075, 6);
    expect(v).toBeCloseTo(0.1 * 0.075 ** 2, 7);
  });

  it('keeps working copies in bf16, rounded from the parameters after each update', async () => {
    const { matrix, copy } = await run(3, 0.37);
    expect(matrix).not.toBe(copy);
    expect(copy).toBe(roundTo('bf16', matrix));
  });
});
