import type { Preset } from './preset.js';

/** Every part of DeepSeek-V3 at the smallest size that still learns something; 100 steps take seconds. */
export function test(): Preset {
  return {
    model: {
      config: {
        model_type: 'deepseek_v3',
        vocab_size: 320,
        hidden_size: 32,
        intermediate_size: 64,
        moe_intermediate_size: 16,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        q_lora_rank: 16,
        kv_lora_rank: 16,
        qk_nope_head_dim: 8,
        qk_rope_head_dim: 8,
        v_head_dim: 8,
        n_routed_experts: 4,
        n_shared_experts: 1,
        num_experts_per_tok: 2,
        n_group: 1,
        topk_group: 1,
        norm_topk_prob: true,
        routed_scaling_factor: 1,
        first_k_dense_replace: 1,
        num_nextn_predict_layers: 1,
        max_position_embeddings: 128,
        initializer_range: 0.02,
        bos_token_id: 0,
        eos_token_id: 1,
      },
    },
    data: { sources: ['synthetic'] },
    steps: 100,
    batch: 4,
    seqLen: 64,
    optimizer: { lr: 1e-2, warmupSteps: 10 },
    evaluation: { batches: 8 },
  };
}
