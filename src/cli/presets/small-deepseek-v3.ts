/** What makes one small model of DeepSeek-V3's architecture another; Hugging Face's names. */
interface Sizes {
  vocab_size: number;
  hidden_size: number;
  intermediate_size: number;
  moe_intermediate_size: number;
  num_hidden_layers: number;
  num_attention_heads: number;
  q_lora_rank: number;
  kv_lora_rank: number;
  qk_nope_head_dim: number;
  qk_rope_head_dim: number;
  v_head_dim: number;
  n_routed_experts: number;
  max_position_embeddings: number;
  initializer_range: number;
}

/**
 * DeepSeek-V3 whole in its parts, small in its sizes: latent attention with compressed queries, keys and values, one
 * dense layer, then experts with a shared one, sigmoid routing balanced by a bias, one multi-token-prediction module.
 */
export function smallDeepseekV3(sizes: Sizes): Record<string, unknown> {
  return {
    model_type: 'deepseek_v3',
    ...sizes,
    n_shared_experts: 1,
    num_experts_per_tok: 2,
    n_group: 1,
    topk_group: 1,
    norm_topk_prob: true,
    routed_scaling_factor: 1,
    first_k_dense_replace: 1,
    num_nextn_predict_layers: 1,
    bos_token_id: 0,
    eos_token_id: 1,
  };
}
