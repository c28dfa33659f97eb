import { describe, expect, it } from 'vitest';
import type { GenerateOptions } from '../../src/generate/generate.js';
import { type LoadedModel, loadModel } from '../../src/generate/loaded-model.js';
import { goldenDir } from '../goldens/golden.js';
import { Rng } from '../support/rng.js';
import { withTextModel } from './text-model.js';

const open = (name: string) => loadModel(goldenDir(name), { device: 'cpu', threads: 2 });

function promptsOf(lengths: readonly number[], vocabSize: number): number[][] {
  const rng = new Rng(`prompts ${lengths}`);
  return lengths.map((length) => Array.from({ length }, () => rng.integer(vocabSize)));
}

/** Ids and summary of each prompt, generated together. */
async function together(model: LoadedModel, prompts: readonly (readonly number[])[], options: GenerateOptions) {
  const pieces = model.generateBatch(prompts, options);
  const found = prompts.map(() => ({ ids: [] as number[], logprobs: [] as number[] }));
  for (;;) {
    const { value, done } = await pieces.next();
    if (done) return { found, ...value };
    found[value.index]?.ids.push(value.id);
    found[value.index]?.logprobs.push(value.logprob);
  }
}

const greedy: GenerateOptions = { temperature: 0, maxTokens: 10, ignoreEos: true };
const drawn: GenerateOptions = {
  temperature: 1.3,
  topK: 60,
  minP: 0.01,
  repetitionPenalty: 1.2,
  seed: 40,
  maxTokens: 10,
  ignoreEos: true,
};

describe('prompts together give what each gives alone', () => {
  const lengths = [1, 17, 4, 33, 16, 2];
  const models = ['deepseek_v3', 'deepseek_v3_yarn', 'deepseek_v3_mtp', 'deepseek_v2', 'qwen2', 'gpt2'];
  it.each(models)('%s', async (name) => {
    using model = await open(name);
    const prompts = promptsOf(
      lengths.map((length) => Math.min(length, model.model.maxPositions - 9)),
      model.model.vocabSize,
    );
    for (const options of [greedy, drawn]) {
      const { found, prompts: summaries } = await together(model, prompts, options);
      for (const [i, prompt] of prompts.entries()) {
        const alone = await model.generateText(prompt, {
          ...options,
          ...(options.seed === undefined ? {} : { seed: options.seed + i }),
        });
        expect(found[i]?.ids, `prompt ${i}`).toEqual(alone.ids);
        expect(summaries[i]).toEqual({
          finishReason: 'length',
          promptTokens: prompt.length,
          generatedTokens: alone.ids.length,
        });
      }
    }
  });

  it('until its own end', async () => {
    using model = await open('deepseek_v3');
    const options = { temperature: 4, seed: 3, maxTokens: 30 };
    const prompts = promptsOf([1, 5, 20, 9, 2, 40], model.model.vocabSize);
    const { found, prompts: summaries, ...times } = await together(model, prompts, options);
    const reasons = new Set<string>();
    for (const [i, prompt] of prompts.entries()) {
      const { ids, finishReason } = await model.generateText(prompt, { ...options, seed: 3 + i });
      expect(found[i]?.ids).toEqual(ids);
      expect(summaries[i]?.finishReason).toBe(finishReason);
      reasons.add(finishReason);
    }
    expect([...reasons].sort()).toEqual(['eos', 'length']);
    const decoded = summaries.reduce((sum, { generatedTokens }) => sum + generatedTokens - 1, 0);
    expect(times.tokensPerSecond).toBeCloseTo((1000 * decoded) / times.decodeMs, 5);
  });

  it('stop strings of its own text', () =>
    withTextModel('deepseek_v3', async (model) => {
      const options = { seed: 9, temperature: 2, maxTokens: 40, ignoreEos: true };
      const { text } = await model.generateText('One', { ...options, seed: 10 });
      const stop = [text.slice(5, 9)];
      const texts = ['', '', ''];
      const pieces = model.generateBatch(['A prompt', 'One', 'x'], { ...options, stop });
      for await (const { index, text: piece } of pieces) texts[index] += piece;
      expect(texts[1]).toBe(text.slice(0, text.indexOf(stop[0] as string)));
      expect(texts[0]).toBe((await model.generateText('A prompt', { ...options, stop })).text);
      expect(texts[2]).toBe((await model.generateText('x', { ...options, stop, seed: 11 })).text);
    }));

  it('and end together when aborted', async () => {
    using model = await open('deepseek_v3');
    const control = new AbortController();
    const pieces = model.generateBatch([[3], [4], [5]], { ...greedy, signal: control.signal });
    for (let i = 0; i < 4; i++) await pieces.next(); // the first prompt is a token ahead
    control.abort();
    expect((await pieces.next()).value).toMatchObject({ index: 1, finishReason: 'aborted' });
    expect((await pieces.next()).value).toMatchObject({ index: 2, finishReason: 'aborted' });
    const { value, done } = await pieces.next();
    expect(done).toBe(true);
    expect(value).toMatchObject({
      prompts: Array(3).fill({ finishReason: 'aborted', promptTokens: 1, generatedTokens: 2 }),
    });
  });
});

describe('speculation and caches', () => {
  it('change no token', async () => {
    using model = await open('deepseek_v3_mtp');
    for (const prompt of promptsOf([1, 2, 15, 16, 17, 40], model.model.vocabSize)) {
      for (const options of [greedy, drawn]) {
        const plain = await model.generateText(prompt, { ...options, cache: 'expanded' });
        for (const change of [
          { cache: 'latent' },
          { cache: 'latent', speculative: true },
          { cache: 'expanded', speculative: true },
          { speculative: 'auto' },
        ] as const) {
          const { ids, finishReason, drafted, accepted } = await model.generateText(prompt, { ...options, ...change });
          expect(ids, JSON.stringify([prompt.length, options, change])).toEqual(plain.ids);
          expect(finishReason).toBe(plain.finishReason);
          expect(drafted > 0).toBe('speculative' in change);
          expect(accepted).toBeLessThanOrEqual(drafted);
        }
        const [batched] = (await together(model, [prompt, [1], prompt.slice(0, 9)], options)).found;
        expect(batched?.ids).toEqual(plain.ids);
      }
    }
  });

  it('takes fewer steps where drafts are right', async () => {
    using model = await open('deepseek_v3_mtp');
    // All logits equal: the main model and its module agree on token 0.
    const head = model.tensors.get('lm_head.weight');
    await head?.write(new Uint8Array(head.bytes));
    const options = { temperature: 0, maxTokens: 20, ignoreEos: true, speculative: true };
    const { ids, drafted, accepted } = await model.generateText([5, 6], options);
    expect(ids).toEqual(Array(20).fill(0));
    expect(accepted).toBe(drafted);
    expect(drafted).toBe(9); // the first token alone, then two a step, and one that leaves no room for a draft
    expect((await model.generateText([5, 6], { ...options, maxTokens: 4 })).ids).toHaveLength(4);
  });

  it('ends at the end token amidst a step', async () => {
    using model = await open('deepseek_v3_mtp');
    const options = { temperature: 5, maxTokens: 60 };
    const reasons = new Set<string>();
    for (let seed = 0; seed < 8; seed++) {
      const plain = await model.generateText([7], { ...options, seed });
      const speculative = await model.generateText([7], { ...options, seed, speculative: true });
      expect(speculative.ids).toEqual(plain.ids);
      expect(speculative.finishReason).toBe(plain.finishReason);
      reasons.add(plain.finishReason);
    }
    expect(reasons).toContain('eos');
  });

  it('are refused where a model or a batch cannot follow', async () => {
    using model = await open('gpt2');
    const config = { code: 'HADAL_ERR_CONFIG' };
    await expect(model.generateText([1], { speculative: true })).rejects.toMatchObject({
      ...config,
      message: expect.stringMatching(/multi-token-prediction/),
    });
    await expect(model.generateText([1], { cache: 'latent' })).rejects.toMatchObject({
      ...config,
      message: expect.stringMatching(/latent/),
    });
    expect((await model.generateText([1], { speculative: 'auto', maxTokens: 2 })).drafted).toBe(0);
    using predicting = await open('deepseek_v3_mtp');
    await expect(predicting.generateBatch([[1], [2]], { speculative: true }).next()).rejects.toMatchObject(config);
    const both = await together(predicting, [[1], [2]], { speculative: 'auto', maxTokens: 2 });
    expect(both.drafted).toBe(0);
    await expect(predicting.generateBatch([]).next()).rejects.toMatchObject({ code: 'HADAL_ERR_DATA' });
    await expect(predicting.generateBatch([[1], [999]]).next()).rejects.toMatchObject({
      code: 'HADAL_ERR_DATA',
      message: expect.stringContaining('prompt 1'),
    });
  });
});
