import { describe, expect, it } from 'vitest';
import { modelFromConfig } from '../../src/models/families.js';
import { configText } from '../../src/models/hugging-face-config.js';
import { countModel } from '../../src/models/inspect.js';
import { parametersOf } from '../../src/models/model.js';
import { expectHadalError } from '../support/op-case.js';
import { llama3, llama32, mistral, qwen2, r1DistillQwen, smolLm2 } from './published-configs.js';

type Json = Record<string, unknown>;

const published: Record<string, [config: Json, parameters: number]> = {
  'Llama 3 8B': [llama3, 8_030_261_248],
  'Llama 3.2 1B': [llama32, 1_235_814_400],
  'Qwen2 7B': [qwen2, 7_615_616_512],
  'DeepSeek-R1-Distill-Qwen 1.5B': [r1DistillQwen, 1_777_088_000],
  'Mistral 7B v0.3': [mistral, 7_248_023_552],
  'SmolLM2 135M': [smolLm2, 134_515_008],
};

describe.each(Object.entries(published))('%s', (_, [config, parameters]) => {
  it('has the published number of parameters, all in a group', () => {
    const { model, groups } = countModel(modelFromConfig(config), 1024);
    expect(model.parameters).toBe(parameters);
    expect(model.activeParameters).toBe(parameters);
    const head = config.tie_word_embeddings ? [] : ['output head'];
    expect(groups.map(({ name }) => name)).toEqual(['embedding', 'norms', 'attention', 'dense layers', ...head]);
  });

  it('round-trips, and says of its own config what the published one says', () => {
    const once = modelFromConfig(config).toHuggingFace();
    expect(modelFromConfig(JSON.parse(configText(once))).toHuggingFace()).toEqual(once);
    const silent = [
      ['pretraining_tp', 'torch_dtype', 'transformers_version', 'rope_scaling', 'pad_token_id'],
      ['is_llama_config', 'rope_interleaved', 'transformers.js_config'],
      ['max_window_layers', 'use_mrope', ...(config.model_type === 'qwen2' ? ['sliding_window'] : [])],
    ].flat();
    const said = Object.entries(config).filter(([key]) => !silent.includes(key));
    expect(once).toMatchObject(Object.fromEntries(said));
  });
});

it('names parameters as Hugging Face does; biases and norms begin at 0 and 1 and do not decay', () => {
  const tiny = {
    vocab_size: 11,
    hidden_size: 8,
    intermediate_size: 6,
    num_hidden_layers: 1,
    num_attention_heads: 2,
    num_key_value_heads: 1,
  };
  const parameters = (change: Json) => [...parametersOf(modelFromConfig({ ...tiny, ...change })).values()];
  const names = (change: Json) =>
    parameters(change).flatMap(({ parts }) => parts.map(({ name }) => name.replace('model.layers.0.', '')));
  const weights = [
    ...['embed_tokens', 'norm'].map((name) => `model.${name}.weight`),
    ...['input_layernorm', 'post_attention_layernorm'].map((name) => `${name}.weight`),
    ...['q', 'k', 'v', 'o'].map((name) => `self_attn.${name}_proj.weight`),
    ...['gate', 'up', 'down'].map((name) => `mlp.${name}_proj.weight`),
  ];
  const attentionBiases = ['q', 'k', 'v'].map((name) => `self_attn.${name}_proj.bias`);
  const otherBiases = ['self_attn.o_proj.bias', ...['gate', 'up', 'down'].map((name) => `mlp.${name}_proj.bias`)];
  const biased = { model_type: 'llama', attention_bias: true, mlp_bias: true };
  const tied = { tie_word_embeddings: true };
  expect(names({ model_type: 'llama' }).sort()).toEqual([...weights, 'lm_head.weight'].sort());
  expect(names({ model_type: 'llama', ...tied }).sort()).toEqual([...weights].sort());
  expect(names({ ...biased, ...tied }).sort()).toEqual([...weights, ...attentionBiases, ...otherBiases].sort());
  expect(names({ model_type: 'qwen2', ...tied }).sort()).toEqual([...weights, ...attentionBiases].sort());
  expect(names({ model_type: 'mistral', sliding_window: null, ...tied }).sort()).toEqual([...weights].sort());
  for (const { name, decay, initializer, trainable } of parameters(biased)) {
    const kind = name.endsWith('.bias') ? 'zeros' : name.endsWith('norm.weight') ? 'ones' : 'normal';
    expect({ name, decay, kind: initializer.kind, trainable }).toEqual({
      name,
      decay: kind === 'normal',
      kind,
      trainable: true,
    });
  }
});

describe('fields', () => {
  const headDim = (change: Json) => modelFromConfig({ ...llama3, ...change }).toHuggingFace().head_dim;
  it('take the head size from the config, else from hidden size and heads', () => {
    expect(headDim({})).toBe(128);
    expect(headDim({ head_dim: null })).toBe(128);
    expect(headDim({ head_dim: 96 })).toBe(96);
    expect(modelFromConfig({ ...llama3, head_dim: 96 }).attentionWidth).toBe(2 * 32 * 96);
  });

  it('take as many key/value heads as heads where the config gives none', () => {
    const kvHeads = (config: Json) => modelFromConfig(config).toHuggingFace().num_key_value_heads;
    const { num_key_value_heads, ...without } = llama3;
    expect(kvHeads(without)).toBe(32);
    expect(kvHeads({ ...qwen2, num_key_value_heads: null })).toBe(28);
  });

  it('take what transformers takes where the config gives nothing', () => {
    const { max_position_embeddings, bos_token_id, eos_token_id, rms_norm_eps, rope_theta, ...without } = llama3;
    expect(modelFromConfig(without).toHuggingFace()).toMatchObject({
      max_position_embeddings: 2048,
      bos_token_id: 1,
      eos_token_id: 2,
      rms_norm_eps: 1e-6,
      rope_theta: 10000,
    });
  });

  const rope = (change: Json) => {
    const { rope_theta, rope_scaling } = modelFromConfig({ ...llama3, ...change }).toHuggingFace();
    return { rope_theta, rope_scaling };
  };
  it('read the rotary settings of transformers 4 and 5', () => {
    expect(rope({ rope_theta: 7 })).toEqual({ rope_theta: 7, rope_scaling: undefined });
    const { rope_theta, ...bare } = llama3;
    const nested = { rope_parameters: { rope_type: 'default', rope_theta: 9, partial_rotary_factor: 1 } };
    expect(modelFromConfig({ ...bare, ...nested }).toHuggingFace().rope_theta).toBe(9);
    const llama3Scaling = {
      factor: 8,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 8192,
    };
    for (const form of [
      { rope_theta: 9, rope_scaling: { type: 'llama3', ...llama3Scaling } },
      { rope_theta: 9, rope_scaling: { rope_type: 'llama3', ...llama3Scaling } },
      { rope_theta: 3, rope_parameters: { rope_type: 'llama3', rope_theta: 9, ...llama3Scaling } },
    ]) {
      expect(rope(form)).toEqual({ rope_theta: 9, rope_scaling: { type: 'llama3', ...llama3Scaling } });
    }
    expect(rope({ rope_scaling: { type: 'linear', factor: 4, finetuned: true } }).rope_scaling).toEqual({
      type: 'linear',
      factor: 4,
    });
    for (const scaling of [
      { type: 'linear', factor: 4 },
      { type: 'dynamic', factor: 2 },
      { type: 'yarn', factor: 4, original_max_position_embeddings: 2048, attention_factor: 1.5, truncate: false },
    ]) {
      expect(rope({ rope_scaling: scaling }).rope_scaling).toEqual(scaling);
    }
  });

  it('stay numbers with a point where transformers wants one', () => {
    const text = configText(modelFromConfig({ ...llama32, rope_theta: 500000 }).toHuggingFace());
    for (const field of [
      '"rope_theta": 500000.0',
      '"factor": 32.0',
      '"low_freq_factor": 1.0',
      '"attention_dropout": 0.0',
    ])
      expect(text).toContain(field);
    expect(text).toContain('"original_max_position_embeddings": 8192\n');
  });
});

describe('configs that cannot be', () => {
  const scaling = { ...llama32.rope_scaling };
  const refused: [string, Json, Json, RegExp][] = [
    ['a sliding window of Qwen2', qwen2, { use_sliding_window: true }, /'use_sliding_window' expected false, got true/],
    [
      'layers with a sliding window',
      qwen2,
      { layer_types: ['full_attention', 'sliding_attention'] },
      /'layer_types' expected 'full_attention' for every layer/,
    ],
    ['a sliding window of Mistral', mistral, { sliding_window: 4096 }, /'sliding_window' expected null, got 4096/],
    ['the window Mistral has unless told otherwise', mistral, { sliding_window: undefined }, /'sliding_window' exp/],
    ['another activation', llama3, { hidden_act: 'gelu' }, /'hidden_act' expected "silu", got "gelu"/],
    ['dropped attention', llama3, { attention_dropout: 0.1 }, /'attention_dropout' expected 0, got 0.1/],
    ['quantised weights', llama3, { quantization_config: { bits: 4 } }, /'quantization_config' expected null/],
    ['Qwen2 without its biases', qwen2, { attention_bias: false }, /'attention_bias' expected true, got false/],
    ['key/value heads that do not divide', llama3, { num_key_value_heads: 5 }, /'num_key_value_heads' expected a divi/],
    ['no key/value heads', qwen2, { num_key_value_heads: undefined }, /'num_key_value_heads' expected .*got nothing/],
    [
      'heads that do not divide',
      llama3,
      { hidden_size: 4100 },
      /'hidden_size' expected a multiple of num_attention_he/,
    ],
    ['a head that is no pairs', llama3, { head_dim: 7 }, /'head_dim' expected a multiple of 2, got 7/],
    ['no heads', llama3, { num_attention_heads: 0 }, /'num_attention_heads'/],
    ['an unknown field', llama3, { num_kv_heads: 8 }, /'num_kv_heads' is unknown/],
    [
      'another rope',
      llama3,
      { rope_scaling: { type: 'longrope' } },
      /rope_scaling.rope_type' expected 'default', 'linear'/,
    ],
    [
      'a rope without factor',
      llama3,
      { rope_scaling: { type: 'linear' } },
      /rope_scaling.factor' expected a number ab/,
    ],
    [
      'a rope of unknown keys',
      llama3,
      { rope_scaling: { type: 'linear', factor: 2, toString: 1 } },
      /'rope_scaling.toString' is unknown for rope_type 'linear'/,
    ],
    [
      'sections of a rope',
      qwen2,
      { rope_scaling: { type: 'default', mrope_section: [1] } },
      /'rope_scaling.mrope_sect/,
    ],
    [
      'a head that turns in part',
      llama3,
      { rope_parameters: { rope_type: 'default', partial_rotary_factor: 0.5 } },
      /'rope_parameters.partial_rotary_factor' expected 1, got 0.5/,
    ],
    [
      'bounds of frequencies the wrong way round',
      llama32,
      { rope_scaling: { ...scaling, high_freq_factor: 1 } },
      /'high_freq_factor' expected more than low_freq_factor 1, got 1/,
    ],
    [
      'a switch that is none',
      llama3,
      { rope_scaling: { type: 'yarn', factor: 2, original_max_position_embeddings: 9, truncate: 1 } },
      /'rope_scaling.truncate' expected true or false, got 1/,
    ],
    ['an end that is no id', llama3, { eos_token_id: ['</s>'] }, /'eos_token_id/],
  ];
  for (const [name, config, change, message] of refused) {
    it(name, () => {
      const json = Object.fromEntries(Object.entries({ ...config, ...change }).filter(([, v]) => v !== undefined));
      expectHadalError(() => modelFromConfig(json), 'HADAL_ERR_CONFIG', message);
    });
  }
});
