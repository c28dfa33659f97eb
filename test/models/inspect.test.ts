import { describe, expect, it } from 'vitest';
import { modelFromConfig } from '../../src/models/families.js';
import { activeParameterCount, countModel } from '../../src/models/inspect.js';
import { deepseekV2Lite, deepseekV3, gpt2Small } from './published-configs.js';

describe('countModel', () => {
  it('DeepSeek-V3: 671 B without and 682 B with its MTP module, 37 B active', () => {
    const { model, withMtp, groups } = countModel(modelFromConfig(deepseekV3), 4096);
    expect(model.parameters).toBe(671_026_419_200);
    // The module: 11.5 B as the README of the weights says, router, norms and projection included.
    expect((withMtp?.parameters ?? 0) - model.parameters).toBe(11_610_068_224);
    expect(model.activeParameters / 1e9).toBeCloseTo(37.55, 2);
    expect(groups.find(({ name }) => name === 'attention')?.parameters).toBe(61 * 187_107_328);
    expect(groups.map(({ name }) => name)).not.toContain('other');
    expect(groups.reduce((sum, { parameters }) => sum + parameters, 0)).toBe(withMtp?.parameters);
    expect(groups.reduce((sum, { activeParameters }) => sum + activeParameters, 0)).toBe(withMtp?.activeParameters);
  });

  it('DeepSeek-V2-Lite: 15.7 B, no MTP', () => {
    const { model, withMtp, groups } = countModel(modelFromConfig(deepseekV2Lite), 4096);
    expect(model.parameters).toBe(15_706_484_224);
    expect(withMtp).toBeNull();
    expect(groups.find(({ name }) => name === 'attention')?.parameters).toBe(27 * 13_763_072);
  });

  it('FLOPs a token of GPT-2: 6 a multiplied parameter, the tied head once, and attention', () => {
    const { model, groups } = countModel(modelFromConfig(gpt2Small), 1024);
    const [d, layers, vocabulary] = [768, 12, 50257];
    const multiplied = layers * 12 * d * d + vocabulary * d;
    expect(model.flopsPerToken).toBe(6 * multiplied + 12 * layers * d * 1024);
    expect(groups.map(({ name }) => name)).toEqual(['embedding', 'norms', 'attention', 'dense layers']);
  });

  it('FLOPs a token of a DeepSeek: only the experts a token is sent to, the head once for each prediction', () => {
    const config = {
      model_type: 'deepseek_v3',
      vocab_size: 100,
      hidden_size: 16,
      intermediate_size: 32,
      moe_intermediate_size: 8,
      num_hidden_layers: 2,
      num_attention_heads: 2,
      q_lora_rank: 12,
      kv_lora_rank: 10,
      qk_nope_head_dim: 6,
      qk_rope_head_dim: 4,
      v_head_dim: 5,
      n_routed_experts: 8,
      n_shared_experts: 1,
      num_experts_per_tok: 2,
      first_k_dense_replace: 1,
      num_nextn_predict_layers: 1,
    };
    const attention = 16 * 12 + 12 * 2 * 10 + 16 * (10 + 4) + 10 * 2 * (6 + 5) + 2 * 5 * 16;
    const sparse = 16 * 8 + (2 + 1) * 3 * 16 * 8;
    const dense = 3 * 16 * 32;
    const head = 16 * 100;
    const { model, withMtp } = countModel(modelFromConfig(config), 64);
    const scores = 6 * 2 * (6 + 4 + 5) * 64;
    expect(model.flopsPerToken).toBe(6 * (2 * attention + dense + sparse + head) + 2 * scores);
    const module = attention + sparse + 2 * 16 * 16 + head;
    expect(withMtp?.flopsPerToken).toBe(model.flopsPerToken + 6 * module + scores);
    expect(activeParameterCount(modelFromConfig(config))).toBe(withMtp?.activeParameters);
  });
});
