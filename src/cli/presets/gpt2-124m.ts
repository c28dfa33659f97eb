import type { Preset } from './preset.js';

/** GPT-2 small with the batch and rates of llm.c's reproduction (0.5 M tokens an update). Radford et al. 2019. */
export function gpt2124m(): Preset {
  return {
    model: {
      config: {
        architectures: ['GPT2LMHeadModel'],
        model_type: 'gpt2',
        vocab_size: 50257,
        n_positions: 1024,
        n_embd: 768,
        n_layer: 12,
        n_head: 12,
        n_inner: null,
        activation_function: 'gelu_new',
        layer_norm_epsilon: 1e-5,
        initializer_range: 0.02,
        embd_pdrop: 0,
        attn_pdrop: 0,
        resid_pdrop: 0,
        tie_word_embeddings: true,
        bos_token_id: 50256,
        eos_token_id: 50256,
      },
    },
    data: { sources: [] },
    steps: 18_865,
    batch: 512,
    seqLen: 1024,
    gradAccumulationSteps: 128,
    optimizer: { lr: 6e-4, minLrRatio: 0, warmupSteps: 700 },
    evaluation: { every: 250, batches: 20 },
    checkpoint: { every: 500 },
  };
}
