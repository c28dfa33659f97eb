import type { Preset } from './preset.js';

const yarn = {
  type: 'yarn',
  factor: 40,
  original_max_position_embeddings: 4096,
  beta_fast: 32,
  beta_slow: 1,
};

/** The learning rate falls to 0.316 of itself twice. */
const v2LiteSteps = [
  { from: 0.8, value: 0.316 },
  { from: 0.9, value: 0.316 ** 2 },
];

/** DeepSeek-V2-Lite as published: arXiv:2405.04434, appendix B. 4K pre-training. */
export function deepseekV2Lite(): Preset {
  return {
    model: {
      config: {
        architectures: ['DeepseekV2ForCausalLM'],
        model_type: 'deepseek_v2',
        vocab_size: 102400,
        hidden_size: 2048,
        intermediate_size: 10944,
        moe_intermediate_size: 1408,
        num_hidden_layers: 27,
        num_attention_heads: 16,
        num_key_value_heads: 16,
        q_lora_rank: null,
        kv_lora_rank: 512,
        qk_nope_head_dim: 128,
        qk_rope_head_dim: 64,
        v_head_dim: 128,
        n_routed_experts: 64,
        n_shared_experts: 2,
        num_experts_per_tok: 6,
        n_group: 1,
        topk_group: 1,
        topk_method: 'greedy',
        scoring_func: 'softmax',
        norm_topk_prob: false,
        routed_scaling_factor: 1,
        first_k_dense_replace: 1,
        moe_layer_freq: 1,
        hidden_act: 'silu',
        rms_norm_eps: 1e-6,
        rope_theta: 10000,
        // biome-ignore lint/suspicious/noApproximativeNumericConstant: 0.707 is what was published
        rope_scaling: { ...yarn, mscale: 0.707, mscale_all_dim: 0.707 },
        max_position_embeddings: 163840,
        initializer_range: 0.006,
        attention_bias: false,
        attention_dropout: 0,
        tie_word_embeddings: false,
        bos_token_id: 100000,
        eos_token_id: 100001,
      },
    },
    data: { sources: [] },
    steps: 302_000,
    batch: 4608,
    seqLen: 4096,
    gradAccumulationSteps: 4608,
    optimizer: { lr: 4.2e-4, warmupSteps: 2000, schedule: { shape: 'step', milestones: v2LiteSteps } },
    loss: { balanceWeight: 1e-3 },
    evaluation: { every: 1000, batches: 100 },
    checkpoint: { every: 1000 },
  };
}

/** DeepSeek-V3 as published: arXiv:2412.19437, section 4.2. 4K pre-training; shares of tokens are taken as shares of updates. */
export function deepseekV3(): Preset {
  return {
    model: {
      config: {
        architectures: ['DeepseekV3ForCausalLM'],
        model_type: 'deepseek_v3',
        vocab_size: 129280,
        hidden_size: 7168,
        intermediate_size: 18432,
        moe_intermediate_size: 2048,
        num_hidden_layers: 61,
        num_attention_heads: 128,
        num_key_value_heads: 128,
        q_lora_rank: 1536,
        kv_lora_rank: 512,
        qk_nope_head_dim: 128,
        qk_rope_head_dim: 64,
        v_head_dim: 128,
        n_routed_experts: 256,
        n_shared_experts: 1,
        num_experts_per_tok: 8,
        n_group: 8,
        topk_group: 4,
        topk_method: 'noaux_tc',
        scoring_func: 'sigmoid',
        norm_topk_prob: true,
        routed_scaling_factor: 2.5,
        first_k_dense_replace: 3,
        moe_layer_freq: 1,
        num_nextn_predict_layers: 1,
        hidden_act: 'silu',
        rms_norm_eps: 1e-6,
        rope_theta: 10000,
        rope_scaling: { ...yarn, mscale: 1, mscale_all_dim: 1 },
        max_position_embeddings: 163840,
        initializer_range: 0.006,
        attention_bias: false,
        attention_dropout: 0,
        tie_word_embeddings: false,
        bos_token_id: 0,
        eos_token_id: 1,
      },
    },
    data: { sources: [] },
    // 469 B tokens while the batch grows, 14.3 T after it.
    steps: 240_000,
    batch: 15_360,
    seqLen: 4096,
    gradAccumulationSteps: 15_360,
    batchRamp: { from: 3072, steps: 12_400 },
    optimizer: { lr: 2.2e-4, warmupSteps: 2000, schedule: { shape: 'deepseek-v3' } },
    loss: {
      mtpWeight: [
        { from: 0, value: 0.3 },
        { from: 10 / 14.8, value: 0.1 },
      ],
      routerBiasSpeed: [
        { from: 0, value: 1e-3 },
        { from: 14.3 / 14.8, value: 0 },
      ],
    },
    evaluation: { every: 1000, batches: 100 },
    checkpoint: { every: 1000 },
  };
}
