import { describe, expect, it } from 'vitest';
import { sizeOf } from '../../src/core/shape.js';
import { modelFromConfig } from '../../src/models/families.js';
import { type Model, parametersOf } from '../../src/models/model.js';
import { expectHadalError } from '../support/op-case.js';
import { deepseekV2Lite, deepseekV3, gpt2Small } from './published-configs.js';

const total = (model: Model) => [...parametersOf(model).values()].reduce((sum, { shape }) => sum + sizeOf(shape), 0);

describe('parameters of published models', () => {
  it('DeepSeek-V3 without MTP has 671,026,419,200', () => {
    expect(total(modelFromConfig({ ...deepseekV3, num_nextn_predict_layers: 0 }))).toBe(671_026_419_200);
  });
  it('DeepSeek-V2-Lite has 15,706,484,224', () => {
    expect(total(modelFromConfig(deepseekV2Lite))).toBe(15_706_484_224);
  });
  it('GPT-2 124M has 124,439,808', () => {
    expect(total(modelFromConfig(gpt2Small))).toBe(124_439_808);
  });
  it('round-trips through config.json', () => {
    for (const config of [deepseekV3, deepseekV2Lite, gpt2Small]) {
      const once = modelFromConfig(config).toHuggingFace();
      expect(modelFromConfig(once).toHuggingFace()).toEqual(once);
    }
  });
});

describe('configs that cannot be', () => {
  const refused: [string, Record<string, unknown>, RegExp][] = [
    ['a family nobody knows', { model_type: 'llama9' }, /'model_type' expected one of deepseek_v2.*"llama9"/],
    ['an unknown field', { kv_lora_ranc: 3 }, /'kv_lora_ranc' is unknown; did you mean 'kv_lora_rank'/],
    ['a missing size', { kv_lora_rank: undefined }, /'kv_lora_rank' expected .*got nothing/],
    ['a negative size', { hidden_size: -1 }, /'hidden_size'/],
    ['groups that do not divide', { n_group: 7 }, /'n_group' expected a divisor of n_routed_experts 256, got 7/],
    ['more experts a token than there are', { num_experts_per_tok: 200 }, /'num_experts_per_tok' expected at most 128/],
    ['another activation', { hidden_act: 'gelu' }, /'hidden_act' expected "silu", got "gelu"/],
    ['another rope', { rope_scaling: { type: 'linear' } }, /rope_type' expected 'default' or 'yarn'/],
  ];
  for (const [name, change, message] of refused) {
    it(name, () => {
      const config = Object.fromEntries(
        Object.entries({ ...deepseekV3, ...change }).filter(([, v]) => v !== undefined),
      );
      expectHadalError(() => modelFromConfig(config), 'HADAL_ERR_CONFIG', message);
    });
  }
});
