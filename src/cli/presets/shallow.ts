import type { Preset } from './preset.js';

/**
 * A small model of DeepSeek-V3's architecture, whole in its parts: latent attention with compressed queries, keys and
 * values, one dense layer, then experts with a shared one, sigmoid routing balanced by a bias, one multi-token-prediction
 * module. Learns English from the State of the Union addresses in minutes on two cores.
 */
export function shallow(): Preset {
  return {
    model: {
      config: {
        model_type: 'deepseek_v3',
        vocab_size: 4096,
        hidden_size: 256,
        intermediate_size: 704,
        moe_intermediate_size: 128,
        num_hidden_layers: 4,
        num_attention_heads: 8,
        q_lora_rank: 96,
        kv_lora_rank: 64,
        qk_nope_head_dim: 32,
        qk_rope_head_dim: 16,
        v_head_dim: 32,
        n_routed_experts: 8,
        n_shared_experts: 1,
        num_experts_per_tok: 2,
        n_group: 1,
        topk_group: 1,
        norm_topk_prob: true,
        routed_scaling_factor: 1,
        first_k_dense_replace: 1,
        num_nextn_predict_layers: 1,
        max_position_embeddings: 512,
        initializer_range: 0.04,
        bos_token_id: 0,
        eos_token_id: 1,
      },
    },
    data: { sources: ['sotu'] },
    steps: 500,
    batch: 8,
    seqLen: 256,
    optimizer: { lr: 4e-3, warmupSteps: 60 },
    // The paper's speed is for runs of a hundred thousand updates; these few must balance the experts sooner.
    loss: { routerBiasSpeed: 0.01, balanceWeight: 1e-3 },
    evaluation: { every: 125, batches: 16 },
    checkpoint: { every: 250 },
  };
}
