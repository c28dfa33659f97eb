// Grouped-query attention over caches: generation gives what the whole sequence anew gives.
import { describe, expect, it } from 'vitest';
import { generate } from '../../src/generate/generate.js';
import { loadModel } from '../../src/generate/loaded-model.js';
import { goldenDir } from '../goldens/golden.js';
import { Rng } from '../support/rng.js';

describe('greedy generation of the Llama family with a cache', () => {
  // Prefill buckets end at 16 and 32; qwen2_yarn has 52 positions.
  const lengths: Record<string, number[]> = {
    llama: [1, 2, 15, 16, 17, 33, 57],
    llama_llama3_rope: [16, 60],
    llama_biases: [17],
    qwen2: [1, 16, 17, 33],
    qwen2_yarn: [16, 40, 50],
    mistral: [15],
  };
  for (const [name, prompts] of Object.entries(lengths)) {
    it(`equals ${name} without`, async () => {
      using model = await loadModel(goldenDir(name), { device: 'cpu', threads: 2 });
      const { vocabSize, maxPositions } = model.model;
      for (const length of prompts) {
        const rng = new Rng(`${name} ${length}`);
        const ids = Array.from({ length }, () => rng.integer(vocabSize));
        const pieces = [];
        for await (const piece of generate(model, ids, { temperature: 0, maxTokens: 8, ignoreEos: true })) {
          pieces.push(piece);
        }
        expect(pieces, `${length} tokens`).toHaveLength(Math.min(8, maxPositions - length + 1));
        for (const { id, logprob } of pieces) {
          const { logits, shape } = await model.forward([ids]);
          const last = logits.subarray(logits.length - shape[2]);
          expect(id, `${length} tokens`).toBe(last.indexOf(Math.max(...last)));
          const total = last.reduce((sum, logit) => sum + Math.exp(logit - (last[id] as number)), 0);
          expect(logprob).toBeCloseTo(-Math.log(total), 5);
          ids.push(id);
        }
      }
    });
  }
});
