import type { Preset } from './preset.js';
import { smallDeepseekV3 } from './small-deepseek-v3.js';

/** A small DeepSeek-V3 that learns English from the State of the Union addresses in minutes on two cores. */
export function shallow(): Preset {
  return {
    model: {
      config: smallDeepseekV3({
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
        max_position_embeddings: 512,
        initializer_range: 0.04,
      }),
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
