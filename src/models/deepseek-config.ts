// Configuration of DeepSeek-V2 and V3, and its Hugging Face form (config.json).
import { z } from 'zod';
import { count, countOrZero } from '../core/schema.js';
import type { YarnScaling } from '../nn/rope-scaling.js';
import {
  checkFields,
  configError,
  parseConfig,
  ropeFromHuggingFace,
  ropeToHuggingFace,
  snakeCase,
} from './hugging-face-config.js';

const eps = z.number().positive().max(1);

const schema = z.object({
  family: z.enum(['deepseek_v2', 'deepseek_v3']),
  vocabSize: count,
  hiddenSize: count,
  /** Width of the dense layers' MLP. */
  intermediateSize: count,
  /** Width of one expert. */
  moeIntermediateSize: count,
  numHiddenLayers: count.max(10_000),
  numAttentionHeads: count,
  qLoraRank: count.nullable().default(null),
  kvLoraRank: count,
  qkNopeHeadDim: count,
  qkRopeHeadDim: count.multipleOf(2),
  vHeadDim: count,
  nRoutedExperts: count.max(65_536),
  nSharedExperts: countOrZero
    .nullable()
    .transform((n) => n ?? 0)
    .default(0),
  numExpertsPerTok: count,
  nGroup: count
    .nullable()
    .transform((n) => n ?? 1)
    .default(1),
  topkGroup: count
    .nullable()
    .transform((n) => n ?? 1)
    .default(1),
  topkMethod: z.enum(['greedy', 'group_limited_greedy', 'noaux_tc']).default('greedy'),
  normTopkProb: z.boolean().default(true),
  routedScalingFactor: z.number().positive().default(1),
  /** The first layers have a plain MLP. */
  firstKDenseReplace: countOrZero.default(0),
  moeLayerFreq: count.default(1),
  numNextnPredictLayers: countOrZero.max(64).default(0),
  rmsNormEps: eps.default(1e-6),
  ropeTheta: z.number().positive().default(10000),
  yarn: z.custom<YarnScaling>().nullable().default(null),
  rotaryLayout: z.enum(['interleaved', 'half']).default('interleaved'),
  maxPositionEmbeddings: count.default(4096),
  initializerRange: z.number().positive().default(0.02),
  tieWordEmbeddings: z.boolean().default(false),
  bosTokenId: countOrZero.nullable().default(0),
  eosTokenId: countOrZero.nullable().default(1),
  /** Which hidden state the MTP module reads; the sources disagree, see vLLM and Megatron (post) and torchtitan (pre). */
  mtpHidden: z.enum(['post-norm', 'pre-norm']).default('post-norm'),
});

/** Configuration of a DeepSeek-V2 or V3 model; fields carry the names of config.json in camel case. */
export type DeepseekConfig = z.output<typeof schema>;

/** Keys of published configs that say nothing about the computation, or whose only accepted value is checked below. */
const otherKeys = new Set(
  `ep_size head_dim qk_head_dim hidden_act pretraining_tp aux_loss_alpha seq_aux attention_bias attention_dropout mlp_bias
   num_key_value_heads scoring_func rope_interleave rope_parameters rope_scaling quantization_config output_router_logits`.split(
    /\s+/,
  ),
);

/** Settings we do not compute otherwise than so. */
const onlyValues: Record<string, unknown> = {
  hidden_act: 'silu',
  attention_bias: false,
  mlp_bias: false,
  attention_dropout: 0,
};

/**
 * Reads a `config.json` of model_type deepseek_v2 or deepseek_v3.
 *
 * @throws HadalError HADAL_ERR_CONFIG naming the field
 */
export function deepseekFromHuggingFace(json: Record<string, unknown>, source: string): DeepseekConfig {
  const family = json.model_type as DeepseekConfig['family'];
  const config = parseConfig(source, json, schema, {
    derived: {
      family,
      ...ropeFromHuggingFace(json, source),
      rotaryLayout: json.rope_interleave === false ? 'half' : 'interleaved',
      topkMethod: json.topk_method ?? (family === 'deepseek_v3' ? 'noaux_tc' : 'greedy'),
      normTopkProb: json.norm_topk_prob ?? family === 'deepseek_v3',
    },
    otherKeys,
    onlyValues: { ...onlyValues, scoring_func: family === 'deepseek_v3' ? 'sigmoid' : 'softmax' },
  });
  return checkDeepseek(config, source);
}

/** Checks what the numbers must satisfy together. @throws HadalError HADAL_ERR_CONFIG */
export function checkDeepseek(config: DeepseekConfig, source: string): DeepseekConfig {
  const refuse = (field: string, expected: string, got: unknown): never => {
    throw configError(source, field, expected, got);
  };
  const { nRoutedExperts: experts, nGroup: groups, topkGroup, numExpertsPerTok: topK, family } = config;
  const isV3 = family === 'deepseek_v3';
  if (experts % groups !== 0) refuse('n_group', `a divisor of n_routed_experts ${experts}`, groups);
  if (topkGroup > groups) refuse('topk_group', `at most n_group ${groups}`, topkGroup);
  const choice = (experts / groups) * topkGroup;
  if (topK > choice) refuse('num_experts_per_tok', `at most ${choice}, the experts of ${topkGroup} groups`, topK);
  if (isV3 && experts / groups < 2 && groups > 1) refuse('n_group', 'groups of two experts or more', groups);
  if (isV3 !== (config.topkMethod === 'noaux_tc'))
    refuse('topk_method', isV3 ? 'noaux_tc' : 'greedy or group_limited_greedy', config.topkMethod);
  if (!isV3 && config.normTopkProb) refuse('norm_topk_prob', 'false for deepseek_v2', true);
  if (!isV3 && config.numNextnPredictLayers > 0)
    refuse('num_nextn_predict_layers', '0 for deepseek_v2', config.numNextnPredictLayers);
  return config;
}

/** A configuration made in code. @throws HadalError HADAL_ERR_CONFIG */
export function deepseekConfig(fields: z.input<typeof schema>): DeepseekConfig {
  return checkDeepseek(checkFields('deepseek', fields, schema), 'deepseek');
}

/** Its `config.json`. */
export function deepseekToHuggingFace(config: DeepseekConfig): Record<string, unknown> {
  const { family, ropeTheta, yarn, rotaryLayout, mtpHidden, topkMethod, nGroup, topkGroup, ...plain } = config;
  const isV3 = family === 'deepseek_v3';
  return {
    architectures: [isV3 ? 'DeepseekV3ForCausalLM' : 'DeepseekV2ForCausalLM'],
    model_type: family,
    ...snakeCase(plain),
    num_key_value_heads: config.numAttentionHeads,
    ...(isV3 || topkMethod === 'group_limited_greedy'
      ? { n_group: nGroup, topk_group: topkGroup }
      : { n_group: 1, topk_group: 1 }),
    topk_method: topkMethod,
    scoring_func: isV3 ? 'sigmoid' : 'softmax',
    hidden_act: 'silu',
    attention_bias: false,
    attention_dropout: 0,
    ...(isV3 ? { rope_interleave: rotaryLayout === 'interleaved' } : {}),
    ...(mtpHidden === 'pre-norm' ? { mtp_hidden: mtpHidden } : {}),
    ...ropeToHuggingFace(ropeTheta, yarn),
    use_cache: true,
  };
}
