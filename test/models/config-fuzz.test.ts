// Configs with fields of any JSON in them: a model that traces and round-trips, or a HadalError.
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { HadalError } from '../../src/core/errors.js';
import { modelFromConfig } from '../../src/models/families.js';
import { parametersOf } from '../../src/models/model.js';
import { deepseekV2Lite, gpt2Small, llama32, mistral, qwen2 } from './published-configs.js';

const bases = [
  { ...deepseekV2Lite, num_hidden_layers: 2 },
  { ...gpt2Small, n_layer: 1 },
  ...[llama32, qwen2, mistral].map((config) => ({ ...config, num_hidden_layers: 1 })),
];
const depths = ['num_hidden_layers', 'n_layer', 'num_nextn_predict_layers', 'n_routed_experts'];
const fields = [
  ...new Set(bases.flatMap((base) => Object.keys(base))),
  ...['rope_parameters', 'rope_scaling', 'layer_types', 'head_dim', '__proto__', 'constructor'],
].filter((field) => !depths.includes(field));

const likely: unknown[] = [
  0,
  -1,
  1,
  2,
  3.5,
  64,
  1e9,
  2 ** 31,
  1e308,
  null,
  true,
  false,
  '',
  'silu',
  [],
  {},
  { toString: 1 },
];
const ropeKey = fc.constantFrom(
  ...['type', 'rope_type', 'rope_theta', 'factor', 'original_max_position_embeddings', 'low_freq_factor'],
  ...['high_freq_factor', 'attention_factor', 'truncate', 'mscale', 'partial_rotary_factor', 'toString'],
);
const ropeValue = fc.oneof(
  fc.constantFrom('default', 'linear', 'dynamic', 'llama3', 'yarn'),
  fc.constantFrom(...likely),
);
const value = fc.oneof(fc.constantFrom<unknown>(...likely), fc.dictionary(ropeKey, ropeValue), fc.jsonValue());
const changes = fc.array(fc.tuple(fc.constantFrom(...fields), value), { minLength: 1, maxLength: 3 });

it('configs with arbitrary fields are models or refused', () => {
  let models = 0;
  fc.assert(
    fc.property(fc.constantFrom(...bases), changes, (base, changed) => {
      const json: Record<string, unknown> = { ...base };
      for (const [field, value] of changed) {
        Object.defineProperty(json, field, { value, enumerable: true, configurable: true, writable: true });
      }
      try {
        const model = modelFromConfig(json);
        parametersOf(model);
        const once = model.toHuggingFace();
        expect(modelFromConfig(once).toHuggingFace()).toEqual(once);
        models++;
      } catch (error) {
        if (!(error instanceof HadalError) || error.code !== 'HADAL_ERR_CONFIG') throw error;
      }
    }),
    { numRuns: 4000, seed: 4 },
  );
  expect(models).toBeGreaterThan(200);
});
