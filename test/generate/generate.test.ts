import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { type GenerateOptions, generate } from '../../src/generate/generate.js';
import { loadModel } from '../../src/generate/loaded-model.js';
import type { Session } from '../../src/session/session.js';
import { goldenDir } from '../goldens/golden.js';
import { copyModel, withDirectory } from '../session/model-copies.js';
import { Rng } from '../support/rng.js';

const open = (name: string) => loadModel(goldenDir(name), { device: 'cpu', threads: 2 });

async function collect(session: Session, prompt: readonly number[], options: GenerateOptions) {
  const pieces = [];
  for await (const piece of generate(session, prompt, options)) pieces.push(piece);
  return pieces;
}

/** Greedy choice and its log-probability from the whole sequence anew. */
async function withoutCache(session: Session, prompt: readonly number[], count: number) {
  const ids = [...prompt];
  const found = [];
  for (let i = 0; i < count; i++) {
    const { logits, shape } = await session.forward([ids]);
    const last = logits.subarray(logits.length - shape[2]);
    const id = last.indexOf(Math.max(...last));
    const total = last.reduce((sum, logit) => sum + Math.exp(logit - (last[id] as number)), 0);
    found.push({ id, logprob: -Math.log(total) });
    ids.push(id);
  }
  return found;
}

const randomPrompt = (name: string, length: number, vocabSize: number) => {
  const rng = new Rng(`${name} ${length}`);
  return Array.from({ length }, () => rng.integer(vocabSize));
};

describe('greedy generation with a cache', () => {
  // Prefill buckets end at 16 and 32; gpt2 has 31 positions.
  const lengths: Record<string, number[]> = {
    deepseek_v3: [1, 2, 15, 16, 17, 31, 33, 57],
    deepseek_v3_yarn: [16, 40],
    deepseek_v3_mtp: [15],
    deepseek_v2: [1, 16, 17],
    deepseek_v2_group: [16],
    gpt2: [1, 15, 16, 17, 24],
  };
  for (const [name, prompts] of Object.entries(lengths)) {
    it(`equals ${name} without`, async () => {
      using model = await open(name);
      for (const length of prompts) {
        const prompt = randomPrompt(name, length, model.model.vocabSize);
        const cached = await collect(model, prompt, { temperature: 0, maxTokens: 8, ignoreEos: true });
        const plain = await withoutCache(model, prompt, cached.length);
        expect(cached, `${length} tokens`).toHaveLength(Math.min(8, model.model.maxPositions - length + 1));
        expect(
          cached.map(({ id }) => id),
          `${length} tokens`,
        ).toEqual(plain.map(({ id }) => id));
        for (const [i, { logprob }] of cached.entries()) expect(logprob).toBeCloseTo(plain[i]?.logprob as number, 5);
      }
    });
  }
});

it('generation sees weights that changed since the last one', async () => {
  using model = await open('deepseek_v3');
  const options = { temperature: 0, maxTokens: 6, ignoreEos: true };
  const before = await collect(model, [3, 4], options);
  const projection = model.tensors.get('model.layers.0.self_attn.o_proj.weight');
  await projection?.write(new Uint8Array(projection.bytes));
  const after = await collect(model, [3, 4], options);
  const plain = await withoutCache(model, [3, 4], after.length);
  expect(after).not.toEqual(before);
  expect(after.map(({ id }) => id)).toEqual(plain.map(({ id }) => id));
  for (const [i, { logprob }] of after.entries()) expect(logprob).toBeCloseTo(plain[i]?.logprob as number, 5);
});

describe('generate', () => {
  it('ends where the positions end', async () => {
    using model = await open('gpt2');
    const prompt = randomPrompt('full', 30, 97);
    expect(await collect(model, prompt, { temperature: 0, ignoreEos: true })).toHaveLength(2);
    expect(await collect(model, [...prompt, 1], { temperature: 0 })).toHaveLength(1);
    await expect(collect(model, [...prompt, 1, 2], {})).rejects.toMatchObject({ code: 'HADAL_ERR_DATA' });
  });

  it('ends with the end token unless told to go on', async () => {
    using model = await open('deepseek_v3');
    const options = { temperature: 4, seed: 3, maxTokens: 48 };
    const whole = await collect(model, [5], { ...options, ignoreEos: true });
    const end = whole.findIndex(({ id }) => id === 1);
    expect(end).toBeGreaterThan(-1);
    const ended = await collect(model, [5], options);
    expect(ended.map(({ id }) => id)).toEqual(whole.slice(0, end + 1).map(({ id }) => id));
    expect(ended.map(({ finishReason }) => finishReason)).toEqual([...Array(end).fill(null), 'eos']);
  });

  it('ends when the signal says so and when the loop is left', async () => {
    using model = await open('deepseek_v2');
    const control = new AbortController();
    const ids = [];
    for await (const { id } of model.generate([1, 2], { signal: control.signal, ignoreEos: true })) {
      ids.push(id);
      if (ids.length === 3) control.abort();
    }
    expect(ids).toHaveLength(3);
    for await (const { id } of model.generate([1, 2])) {
      ids.push(id);
      break;
    }
    expect(ids).toHaveLength(4);
  });

  it('gives the same tokens for the same seed, also beside another generation', async () => {
    using model = await open('deepseek_v3');
    const options = { seed: 7, temperature: 1.5, topK: 40, topP: 0.95, maxTokens: 12, ignoreEos: true };
    const [first, second, other] = await Promise.all([
      collect(model, [3, 4], options),
      collect(model, [3, 4], options),
      collect(model, [3, 4], { ...options, seed: 8 }),
    ]);
    expect(second).toEqual(first);
    expect(other).not.toEqual(first);
  });

  it('refuses what makes no sense', async () => {
    using model = await open('deepseek_v3');
    await expect(collect(model, [], {})).rejects.toMatchObject({ code: 'HADAL_ERR_DATA' });
    await expect(collect(model, [101], {})).rejects.toMatchObject({ code: 'HADAL_ERR_DATA' });
    await expect(collect(model, [1], { maxTokens: 0 })).rejects.toMatchObject({ code: 'HADAL_ERR_CONFIG' });
    await expect(model.generate('text').next()).rejects.toMatchObject({
      code: 'HADAL_ERR_DATA',
      message: /without tokenizer/,
    });
    const pieces = model.generate([1]);
    await pieces.next();
    model.dispose();
    await expect(pieces.next()).rejects.toMatchObject({ code: 'HADAL_ERR_DISPOSED' });
  });

  it('takes text and streams text, whole characters only', () =>
    withDirectory(async (dir) => {
      // A byte-level tokenizer of 101 ids: bos, eos, printable ASCII and the three bytes of '中'.
      const bytes = Array.from({ length: 95 }, (_, i) => (i === 0 ? '\u0120' : String.fromCharCode(32 + i)));
      const tokens = ['<s>', '</s>', ...bytes, '\u00e4', '\u00b8', '\u0143'];
      const special = (id: number) => ({
        id,
        content: tokens[id],
        special: true,
        single_word: false,
        lstrip: false,
        rstrip: false,
        normalized: false,
      });
      await copyModel('deepseek_v3', dir, {});
      const byteLevel = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: false, use_regex: false };
      await writeFile(
        join(dir, 'tokenizer.json'),
        JSON.stringify({
          version: '1.0',
          added_tokens: [special(0), special(1)],
          pre_tokenizer: byteLevel,
          decoder: byteLevel,
          model: { type: 'BPE', vocab: Object.fromEntries(tokens.map((token, id) => [token, id])), merges: [] },
        }),
      );
      using model = await loadModel(dir, { device: 'cpu', threads: 2 });
      const options = { seed: 5, temperature: 3, maxTokens: 40, ignoreEos: true };
      const pieces = [];
      for await (const piece of model.generate('Hi 中', options)) pieces.push(piece);
      // The prompt's ids: bos, H, i, space, three bytes.
      expect(pieces.map(({ id }) => id)).toEqual(
        (await collect(model, [0, 42, 75, 2, 97, 98, 99], options)).map(({ id }) => id),
      );
      const whole = await model.tokenizer?.decode(pieces.map(({ id }) => id));
      expect(pieces.map(({ text }) => text).join('')).toBe(whole);
      expect(pieces.filter(({ text }) => text === '').length).toBeGreaterThan(0);
      const bare = model.generate('Hi 中', { ...options, addBos: false });
      expect((await bare.next()).value).not.toEqual(pieces[0]);
    }));
});
