// Configuration of the dense Llama family: Llama, Qwen2, Mistral; and its Hugging Face form (config.json).
import { z } from 'zod';
import { count, countOrZero } from '../core/schema.js';
import type { RopeScaling } from '../nn/rope-scaling.js';
import {
  configError,
  parseConfig,
  ropeScalingFromHuggingFace,
  ropeToHuggingFace,
  snakeCase,
} from './hugging-face-config.js';

const schema = z.object({
  family: z.enum(['llama', 'qwen2', 'mistral']),
  vocabSize: count,
  hiddenSize: count,
  intermediateSize: count,
  numHiddenLayers: count.max(10_000),
  numAttentionHeads: count,
  /** Heads of keys and values, each shared by equally many query heads. */
  numKeyValueHeads: count,
  headDim: count.multipleOf(2),
  /** Biases of all four projections of attention. Qwen2's are its own: query, key and value have them, the output not. */
  attentionBias: z.boolean().default(false),
  mlpBias: z.boolean().default(false),
  rmsNormEps: z.number().positive().max(1).default(1e-6),
  ropeTheta: z.number().positive().default(10000),
  ropeScaling: z.custom<RopeScaling>().nullable().default(null),
  maxPositionEmbeddings: count,
  initializerRange: z.number().positive().default(0.02),
  tieWordEmbeddings: z.boolean().default(false),
  bosTokenId: countOrZero.nullable().default(null),
  /** One id, or several of which each ends a text. */
  eosTokenId: z
    .union([countOrZero, z.array(countOrZero)])
    .nullable()
    .default(null),
});

/** Configuration of a Llama, Qwen2 or Mistral model; fields carry the names of config.json in camel case. */
export type LlamaConfig = z.output<typeof schema>;

type Family = LlamaConfig['family'];

/** What transformers takes for a field that is not there. */
const defaults: Record<Family, Record<string, unknown>> = {
  llama: { max_position_embeddings: 2048, bos_token_id: 1, eos_token_id: 2 },
  qwen2: { max_position_embeddings: 32768 },
  mistral: { max_position_embeddings: 131072, bos_token_id: 1, eos_token_id: 2 },
};

const architectures: Record<Family, string> = {
  llama: 'LlamaForCausalLM',
  qwen2: 'Qwen2ForCausalLM',
  mistral: 'MistralForCausalLM',
};

/** Keys of published configs that say nothing about the computation, or whose only accepted value is checked below. */
const otherKeys: Record<Family, ReadonlySet<string>> = {
  llama: new Set(
    `hidden_act attention_dropout pretraining_tp rope_parameters rope_interleaved is_llama_config quantization_config
     max_sequence_length`.split(/\s+/),
  ),
  qwen2: new Set(
    `hidden_act attention_dropout rope_parameters use_sliding_window sliding_window max_window_layers layer_types
     use_mrope quantization_config`.split(/\s+/),
  ),
  mistral: new Set('hidden_act attention_dropout rope_parameters sliding_window quantization_config'.split(' ')),
};

/** Settings we do not compute otherwise than so. */
const onlyValues: Record<Family, Record<string, unknown>> = {
  llama: { hidden_act: 'silu', attention_dropout: 0, rope_interleaved: false, quantization_config: null },
  qwen2: {
    hidden_act: 'silu',
    attention_dropout: 0,
    attention_bias: true,
    mlp_bias: false,
    use_sliding_window: false,
    use_mrope: false,
    quantization_config: null,
  },
  mistral: {
    hidden_act: 'silu',
    attention_dropout: 0,
    attention_bias: false,
    mlp_bias: false,
    sliding_window: null,
    quantization_config: null,
  },
};

/**
 * Reads a `config.json` of model_type llama, qwen2 or mistral. Sliding windows are refused.
 *
 * @throws HadalError HADAL_ERR_CONFIG naming the field
 */
export function llamaFromHuggingFace(json: Record<string, unknown>, source: string): LlamaConfig {
  const family = json.model_type as Family;
  // transformers has a window of 4096 where the field is not there.
  if (family === 'mistral' && json.sliding_window === undefined)
    throw configError(source, 'sliding_window', 'null', undefined);
  const layerTypes = json.layer_types ?? [];
  if (!Array.isArray(layerTypes) || layerTypes.some((type) => type !== 'full_attention'))
    throw configError(source, 'layer_types', "'full_attention' for every layer", layerTypes);
  const { ropeTheta, scaling } = ropeScalingFromHuggingFace(json, source, ['linear', 'dynamic', 'llama3', 'yarn']);
  const { num_attention_heads: heads, num_key_value_heads: kvHeads, hidden_size: hiddenSize } = json;
  const withDefaults = { ...defaults[family], ...json };
  const config = parseConfig(source, withDefaults, schema, {
    derived: {
      family,
      ropeTheta,
      ropeScaling: scaling,
      // Without the field, Llama has as many as heads; the others a number of their own, which no config relies on.
      numKeyValueHeads: kvHeads === null || (kvHeads === undefined && family === 'llama') ? heads : kvHeads,
      headDim: json.head_dim ?? quotient(hiddenSize, heads),
      attentionBias: family === 'llama' ? json.attention_bias : undefined,
      mlpBias: family === 'llama' ? json.mlp_bias : undefined,
    },
    otherKeys: otherKeys[family],
    onlyValues: onlyValues[family],
  });
  const { numAttentionHeads, numKeyValueHeads } = config;
  if (json.head_dim == null && config.hiddenSize % numAttentionHeads !== 0)
    throw configError(
      source,
      'hidden_size',
      `a multiple of num_attention_heads ${numAttentionHeads}`,
      config.hiddenSize,
    );
  if (numAttentionHeads % numKeyValueHeads !== 0)
    throw configError(source, 'num_key_value_heads', `a divisor of num_attention_heads ${numAttentionHeads}`, kvHeads);
  if (scaling?.type === 'llama3' && scaling.highFreqFactor <= scaling.lowFreqFactor)
    throw configError(
      source,
      'high_freq_factor',
      `more than low_freq_factor ${scaling.lowFreqFactor}`,
      scaling.highFreqFactor,
    );
  return config;
}

/** Undefined where there is none: the schema names the field at fault. */
function quotient(size: unknown, parts: unknown): number | undefined {
  return typeof size === 'number' && typeof parts === 'number' ? Math.floor(size / parts) : undefined;
}

/** Its `config.json`. */
export function llamaToHuggingFace(config: LlamaConfig): Record<string, unknown> {
  const { family, ropeTheta, ropeScaling, attentionBias, mlpBias, ...plain } = config;
  const own: Record<Family, Record<string, unknown>> = {
    llama: { attention_bias: attentionBias, mlp_bias: mlpBias },
    qwen2: { use_sliding_window: false },
    mistral: { sliding_window: null },
  };
  return {
    architectures: [architectures[family]],
    model_type: family,
    ...snakeCase(plain),
    hidden_act: 'silu',
    attention_dropout: 0,
    ...own[family],
    ...ropeToHuggingFace(ropeTheta, ropeScaling),
    use_cache: true,
  };
}
