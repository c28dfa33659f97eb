import { describe, expect, it } from 'vitest';
import { matcherOf } from '../../src/core/name-pattern.js';
import { withEconomy } from '../../src/models/economy.js';
import { modelFromConfig } from '../../src/models/families.js';
import { parametersOf } from '../../src/models/model.js';
import { type ParameterGroup, settingsOf, trainableParameters } from '../../src/optim/groups.js';
import type { OptimizerConfig } from '../../src/optim/optimizer.js';
import { expectHadalError } from '../support/op-case.js';
import { Rng } from '../support/rng.js';
import { tinyConfig } from '../train/tiny.js';
import { plainConfig, runUpdates } from './run-updates.js';

const gpt2Config = { model_type: 'gpt2', vocab_size: 61, n_positions: 32, n_embd: 16, n_layer: 2, n_head: 2 };
const parameters = [...parametersOf(modelFromConfig(tinyConfig)).values()];

const kindsOf = (config: object, kind: OptimizerConfig['kind'], groups: ParameterGroup[] = []) => {
  const all = [...parametersOf(modelFromConfig(config)).values()];
  const settings = settingsOf(all, { ...plainConfig, kind, groups });
  return Object.fromEntries(all.map(({ name }, i) => [name, settings[i]!.kind]));
};

describe('Muon', () => {
  it.each([
    ['DeepSeek', tinyConfig],
    ['GPT-2', gpt2Config],
  ])('of %s takes the matrices of layers, AdamW the rest', (_, config) => {
    const kinds = kindsOf(config, 'muon');
    const other = Object.keys(kinds).filter((name) => kinds[name] === 'adamw');
    const vector = /(norm|layernorm|\.ln_\w+)\.weight$|bias$/;
    expect(other.filter((name) => !vector.test(name)).sort()).toEqual(
      config === gpt2Config
        ? ['transformer.wpe.weight', 'transformer.wte.weight']
        : Object.keys(kinds)
            .filter((name) => /embed_tokens|lm_head|mlp\.gate\.weight/.test(name))
            .sort(),
    );
    expect(Object.values(kinds)).toContain('muon');
  });

  it('leaves factors of an embedding to AdamW as it does the embedding', () => {
    const names = ['model.embed_tokens', 'lm_head', 'model.layers.1.mlp.gate', 'model.layers.0.self_attn.o_proj'];
    const lowRank = names.map((name) => ({ match: `${name}.weight`, rank: 2 }));
    const factors = [...parametersOf(withEconomy(modelFromConfig(tinyConfig), { ties: [], lowRank })).values()].filter(
      ({ factorOf }) => factorOf,
    );
    const settings = settingsOf(factors, { ...plainConfig, kind: 'muon' });
    expect(factors).toHaveLength(8);
    for (const [i, { name }] of factors.entries())
      expect(settings[i]!.kind, name).toBe(name.includes('o_proj') ? 'muon' : 'adamw');
  });

  it('takes an embedding, too, where a group says so, but never a vector', () => {
    const kinds = kindsOf(tinyConfig, 'muon', [{ match: '*', kind: 'muon' }]);
    expect(kinds['model.embed_tokens.weight']).toBe('muon');
    expect(kinds['model.norm.weight']).toBe('adamw');
  });
});

it('the last group that says something of a parameter counts, field by field', () => {
  const groups = [
    { match: '*.mlp.*', lrRatio: 0.5, weightDecay: 0.3, kind: 'sgd' as const },
    { match: 'model.layers.1.*', lrRatio: 2 },
    { match: '*norm.weight', weightDecay: 0.7 },
  ];
  const settings = settingsOf(parameters, { ...plainConfig, l4Decay: 0.01, groups });
  const of = (name: string) => settings[parameters.findIndex((parameter) => parameter.name === name)];
  expect(of('model.layers.0.mlp.down_proj.weight')).toEqual({
    kind: 'sgd',
    lrRatio: 0.5,
    weightDecay: 0.3,
    l4Decay: 0.01,
  });
  expect(of('model.layers.1.mlp.experts.down_proj')).toEqual({
    kind: 'sgd',
    lrRatio: 2,
    weightDecay: 0.3,
    l4Decay: 0.01,
  });
  expect(of('model.norm.weight')).toEqual({ kind: 'adamw', lrRatio: 1, weightDecay: 0.7, l4Decay: 0 });
  expect(of('lm_head.weight')).toEqual({ kind: 'adamw', lrRatio: 1, weightDecay: 0.1, l4Decay: 0.01 });
});

describe('trainable parameters', () => {
  it('are those of the model, but for what groups freeze', () => {
    const names = (groups: ParameterGroup[]) => trainableParameters(parameters, groups).map(({ name }) => name);
    const all = names([]);
    expect(all).toEqual(parameters.filter(({ trainable }) => trainable).map(({ name }) => name));
    const frozen = names([
      { match: 'model.layers.*', trainable: false },
      { match: '*.mlp.*', trainable: true },
    ]);
    expect(frozen).toEqual(all.filter((name) => !name.startsWith('model.layers.') || name.includes('.mlp.')));
  });

  it('refuse a pattern that fits none, with the nearest name', () => {
    const match = 'model.norms.weight';
    const action = () => trainableParameters(parameters, [{ match: '*' }, { match, lrRatio: 2 }]);
    expectHadalError(action, 'HADAL_ERR_CONFIG', /'model\.norms\.weight'.* like 'model\.norm\.weight'/);
  });
});

it('random groups give each parameter what its own settings say', async () => {
  const rng = new Rng('groups');
  const pick = <T>(items: readonly T[]) => items[rng.integer(items.length)] as T;
  for (let round = 0; round < 6; round++) {
    const some = Array.from({ length: 23 }, (_, i) => {
      return {
        name: `${pick(['a', 'b'])}.${i}`,
        shape: pick([[3, 4], [6, 2], [5]]),
        dtype: 'fp32' as const,
        decay: i % 2 > 0,
      };
    });
    const groups: ParameterGroup[] = Array.from({ length: 4 }, () => ({
      match: pick(['*', 'a.*', 'b.*', '*.1*', '{a,b}.{2,3,4}']),
      kind: pick([undefined, 'adamw', 'lion', 'muon', 'sgd'] as const),
      lrRatio: pick([undefined, 0.5, 3]),
      weightDecay: pick([undefined, 0, 0.4]),
    }));
    const draw = () =>
      Object.fromEntries(
        some.map(({ name, shape }) => [
          name,
          Array.from({ length: shape.reduce((a, b) => a * b) }, () => rng.normal()),
        ]),
      );
    const given = { begin: draw(), grads: [draw(), draw()], lr: 0.02 };
    const together = (await runUpdates({ ...plainConfig, groups }, { ...given, parameters: some })).at(-1)!;
    for (const parameter of some.slice(0, 8)) {
      const own = groups.filter(({ match }) => matcherOf(match)(parameter.name));
      const config = { ...plainConfig };
      let lr = 0.02;
      let weightDecay = parameter.decay ? plainConfig.weightDecay : 0;
      for (const group of own) {
        config.kind = group.kind ?? config.kind;
        lr = 0.02 * (group.lrRatio ?? lr / 0.02);
        weightDecay = group.weightDecay ?? weightDecay;
      }
      const alone = { ...given, lr, parameters: [{ ...parameter, decay: true }] };
      const slots = (await runUpdates({ ...config, weightDecay }, alone)).at(-1)!;
      for (const [i, x] of together[parameter.name]!.entries()) expect(x).toBeCloseTo(slots[parameter.name]![i]!, 5);
      expect(
        Object.keys(together)
          .filter((slot) => slot.endsWith(`/${parameter.name}`))
          .sort(),
      ).toEqual(
        Object.keys(slots)
          .filter((slot) => slot.endsWith(`/${parameter.name}`))
          .sort(),
      );
    }
  }
});
