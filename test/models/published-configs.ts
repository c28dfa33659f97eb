// Numbers of published models, as their config.json has them: those of the presets, and whole files.
import { deepseekV2Lite as v2LiteRun, deepseekV3 as v3Run } from '../../src/cli/presets/deepseek.js';
import { gpt2124m } from '../../src/cli/presets/gpt2-124m.js';
import type { Preset } from '../../src/cli/presets/preset.js';

function configOf({ model }: Preset): Record<string, unknown> {
  if (!('config' in model)) throw new Error('a preset without a config');
  return model.config;
}

export const deepseekV3 = configOf(v3Run());
export const deepseekV2Lite = configOf(v2LiteRun());
export const gpt2Small = configOf(gpt2124m());

export const llama3 = {
  architectures: ['LlamaForCausalLM'],
  attention_bias: false,
  attention_dropout: 0.0,
  bos_token_id: 128000,
  eos_token_id: 128001,
  hidden_act: 'silu',
  hidden_size: 4096,
  initializer_range: 0.02,
  intermediate_size: 14336,
  max_position_embeddings: 8192,
  model_type: 'llama',
  num_attention_heads: 32,
  num_hidden_layers: 32,
  num_key_value_heads: 8,
  pretraining_tp: 1,
  rms_norm_eps: 1e-5,
  rope_scaling: null,
  rope_theta: 500000.0,
  tie_word_embeddings: false,
  torch_dtype: 'bfloat16',
  transformers_version: '4.40.0.dev0',
  use_cache: true,
  vocab_size: 128256,
};

/** Llama 3.2 1B Instruct. */
export const llama32 = {
  ...llama3,
  eos_token_id: [128001, 128008, 128009],
  head_dim: 64,
  hidden_size: 2048,
  intermediate_size: 8192,
  max_position_embeddings: 131072,
  mlp_bias: false,
  num_hidden_layers: 16,
  rope_scaling: {
    factor: 32.0,
    high_freq_factor: 4.0,
    low_freq_factor: 1.0,
    original_max_position_embeddings: 8192,
    rope_type: 'llama3',
  },
  tie_word_embeddings: true,
  transformers_version: '4.45.0.dev0',
};

export const qwen2 = {
  architectures: ['Qwen2ForCausalLM'],
  attention_dropout: 0.0,
  bos_token_id: 151643,
  eos_token_id: 151643,
  hidden_act: 'silu',
  hidden_size: 3584,
  initializer_range: 0.02,
  intermediate_size: 18944,
  max_position_embeddings: 131072,
  max_window_layers: 28,
  model_type: 'qwen2',
  num_attention_heads: 28,
  num_hidden_layers: 28,
  num_key_value_heads: 4,
  rms_norm_eps: 1e-6,
  rope_theta: 1000000.0,
  sliding_window: 131072,
  tie_word_embeddings: false,
  torch_dtype: 'bfloat16',
  transformers_version: '4.37.2',
  use_cache: true,
  use_sliding_window: false,
  vocab_size: 152064,
};

/** DeepSeek-R1-Distill-Qwen-1.5B. */
export const r1DistillQwen = {
  ...qwen2,
  hidden_size: 1536,
  intermediate_size: 8960,
  max_window_layers: 21,
  num_attention_heads: 12,
  num_key_value_heads: 2,
  rope_theta: 10000,
  sliding_window: 4096,
  transformers_version: '4.44.0',
  use_mrope: false,
  vocab_size: 151936,
};

/** Mistral 7B v0.3. */
export const mistral = {
  architectures: ['MistralForCausalLM'],
  attention_dropout: 0.0,
  bos_token_id: 1,
  eos_token_id: 2,
  hidden_act: 'silu',
  hidden_size: 4096,
  initializer_range: 0.02,
  intermediate_size: 14336,
  max_position_embeddings: 32768,
  model_type: 'mistral',
  num_attention_heads: 32,
  num_hidden_layers: 32,
  num_key_value_heads: 8,
  rms_norm_eps: 1e-5,
  rope_theta: 1000000.0,
  sliding_window: null,
  tie_word_embeddings: false,
  torch_dtype: 'bfloat16',
  transformers_version: '4.42.0.dev0',
  use_cache: true,
  vocab_size: 32768,
};

/** SmolLM2 135M Instruct: of the Llama family, with keys of other tools. */
export const smolLm2 = {
  ...llama3,
  bos_token_id: 1,
  eos_token_id: 2,
  hidden_size: 576,
  initializer_range: 0.041666666666666664,
  intermediate_size: 1536,
  is_llama_config: true,
  num_attention_heads: 9,
  num_hidden_layers: 30,
  num_key_value_heads: 3,
  pad_token_id: 2,
  rope_interleaved: false,
  rope_theta: 100000,
  tie_word_embeddings: true,
  'transformers.js_config': { kv_cache_dtype: { q4f16: 'float16', fp16: 'float16' } },
  transformers_version: '4.42.3',
  vocab_size: 49152,
};
