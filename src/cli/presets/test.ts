import type { Preset } from './preset.js';
import { smallDeepseekV3 } from './small-deepseek-v3.js';

/** Every part of DeepSeek-V3 at the smallest size that still learns something; 100 steps take seconds. */
export function test(): Preset {
  return {
    model: {
      config: smallDeepseekV3({
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
        max_position_embeddings: 128,
        initializer_range: 0.02,
      }),
    },
    data: { sources: ['synthetic'] },
    steps: 100,
    batch: 4,
    seqLen: 64,
    optimizer: { lr: 1e-2, warmupSteps: 10 },
    evaluation: { batches: 8 },
  };
}
