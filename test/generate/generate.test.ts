import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { describe, expect, it, vi } from 'vitest';
import { type GenerateOptions, generate } from '../../src/generate/generate.js';
import { loadModel } from '../../src/generate/loaded-model.js';
import type { Tensor } from '../../src/runtime/tensor.js';
import type { Session } from '../../src/session/session.js';
import { goldenDir } from '../goldens/golden.js';
import { copyModel, withDirectory } from '../session/model-copies.js';
import { Rng } from '../support/rng.js';
import { withTextModel } from './text-model.js';

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

  it('ends with the tokens of generation_config.json, which is saved with the model', () =>
    withDirectory(async (dir) => {
      await copyModel('deepseek_v3', dir, { config: { eos_token_id: null } });
      const options = { temperature: 4, seed: 3, maxTokens: 48 };
      const idsWith = async (generation: object, more = {}) => {
        await writeFile(join(dir, 'generation_config.json'), JSON.stringify(generation));
        using model = await loadModel(dir, { device: 'cpu', threads: 2 });
        await model.save(join(dir, 'saved'));
        expect(JSON.parse(await readFile(join(dir, 'saved/generation_config.json'), 'utf8'))).toEqual(generation);
        await rm(join(dir, 'saved'), { recursive: true });
        return (await collect(model, [5], { ...options, ...more })).map(({ id }) => id);
      };
      const whole = await idsWith({ eos_token_id: null, top_p: 0.9 });
      expect(whole).toHaveLength(48);
      const end = whole[5] as number;
      const ended = whole.slice(0, whole.indexOf(end) + 1);
      const other = Array.from({ length: 99 }, (_, id) => id).find((id) => !whole.includes(id)) as number;
      expect(await idsWith({ eos_token_id: end })).toEqual(ended);
      expect(await idsWith({ eos_token_id: [other, end] })).toEqual(ended);
      expect(await idsWith({ eos_token_id: end }, { ignoreEos: true })).toEqual(whole);
    }));

  it('refuses a generation_config.json that is none', () =>
    withDirectory(async (dir) => {
      await copyModel('deepseek_v3', dir, {});
      for (const text of ['{', '[]', '{"eos_token_id":"<eos>"}', '{"eos_token_id":[-1]}']) {
        await writeFile(join(dir, 'generation_config.json'), text);
        const message = expect.stringContaining('generation_config.json');
        await expect(loadModel(dir)).rejects.toMatchObject({ code: 'HADAL_ERR_CONFIG', message });
      }
    }));

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
    const pieces = model.generate([1], { ignoreEos: true });
    await pieces.next();
    model.dispose();
    await expect(pieces.next()).rejects.toMatchObject({ code: 'HADAL_ERR_DISPOSED' });
  });

  it('computes nothing before it is asked for', async () => {
    using model = await open('deepseek_v3_mtp');
    const run = vi.spyOn(model, 'run');
    for (const speculative of [false, true]) {
      const pieces = model.generate([3, 4], { speculative, ignoreEos: true, seed: 1 });
      await setTimeout(20);
      expect(run).toHaveBeenCalledTimes(0);
      await pieces.next();
      const [first, afterFirst] = [
        run.mock.calls.length,
        await setTimeout(50, 'later').then(() => run.mock.calls.length),
      ];
      expect(first).toBeGreaterThan(0);
      expect(afterFirst).toBe(first);
      for (let i = 0; i < 3; i++) await pieces.next();
      expect(run.mock.calls.length).toBeGreaterThan(first);
      const before = run.mock.calls.length;
      await setTimeout(50);
      expect(run).toHaveBeenCalledTimes(before);
      await pieces.return({} as never);
      expect(run).toHaveBeenCalledTimes(before);
      run.mockClear();
    }
  });

  it('frees what it holds when it ends, is left, fails or is aborted', async () => {
    using model = await open('deepseek_v3_mtp');
    const allocate = vi.spyOn(model.device, 'allocate');
    const allFreed = () => {
      const tensors = allocate.mock.results.map(({ value }) => value as Tensor);
      expect(tensors.length).toBeGreaterThan(2);
      for (const tensor of tensors)
        expect(() => tensor.storage).toThrow(expect.objectContaining({ code: 'HADAL_ERR_DISPOSED' }));
      allocate.mockClear();
    };
    const options = { maxTokens: 4, ignoreEos: true };
    for (const speculative of [false, true]) {
      await collect(model, [3], { ...options, speculative });
      allFreed();
      for await (const _ of model.generate([3], { ...options, speculative })) break;
      allFreed();
      for await (const _ of model.generateBatch([[3], [4, 5]], options)) break;
      allFreed();
      const control = new AbortController();
      for await (const _ of model.generate([3], { ...options, speculative, signal: control.signal })) control.abort();
      allFreed();
      const run = vi.spyOn(model, 'run').mockRejectedValueOnce(new Error('broken'));
      allocate.mockClear();
      await expect(collect(model, [3], { ...options, speculative })).rejects.toThrow('broken');
      run.mockRestore();
      for (const { value } of allocate.mock.results) expect(() => (value as Tensor).storage).toThrow();
      allocate.mockClear();
    }
  });

  it('says why it ended and what it did', async () => {
    using model = await open('deepseek_v3_mtp');
    const control = new AbortController();
    const options = { ignoreEos: true, seed: 2, signal: control.signal };
    const { ids, ...summary } = await model.generateText([3, 4, 5], { ...options, maxTokens: 5 });
    expect(ids).toHaveLength(5);
    expect(summary).toEqual({
      text: '',
      finishReason: 'length',
      promptTokens: 3,
      generatedTokens: 5,
      prefillMs: expect.any(Number),
      decodeMs: expect.any(Number),
      tokensPerSecond: expect.any(Number),
      drafted: 0,
      accepted: 0,
    });
    expect(summary.tokensPerSecond).toBeCloseTo(4000 / summary.decodeMs, 5);
    const one = await model.generateText([3], { ...options, maxTokens: 1 });
    expect(one).toMatchObject({ finishReason: 'length', decodeMs: 0, tokensPerSecond: null });

    // Aborted while its consumer holds a piece, and while the next one is computed.
    const between = model.generate([3], options);
    expect((await between.next()).value).toMatchObject({ finishReason: null });
    const within = model.generate([3], options);
    await within.next();
    const next = within.next();
    control.abort();
    expect((await next).value).toMatchObject({ id: expect.any(Number), finishReason: 'aborted' });
    for (const [generation, generatedTokens] of [
      [between, 1],
      [within, 2],
    ] as const) {
      const end = { finishReason: 'aborted', generatedTokens };
      expect(await generation.next()).toMatchObject({ done: true, value: end });
    }
    expect(await model.generateText([3], options)).toMatchObject({ finishReason: 'aborted', ids: [], prefillMs: 0 });
  });

  it('penalises what the prompt and the text hold', async () => {
    using model = await open('deepseek_v3');
    const prompt = Array.from({ length: 20 }, (_, i) => i);
    const ids = [
      ...prompt,
      ...(await model.generateText(prompt, { temperature: 0, maxTokens: 40, ignoreEos: true })).ids,
    ];
    expect(new Set(ids).size).toBeLessThan(60);
    const options = { temperature: 0, maxTokens: 40, ignoreEos: true, repetitionPenalty: 1e6 };
    expect(new Set([...prompt, ...(await model.generateText(prompt, options)).ids]).size).toBe(60);
  });
});

describe('text', () => {
  const options = { seed: 5, temperature: 3, maxTokens: 40, ignoreEos: true };

  it('is taken and streamed, whole characters only', () =>
    withTextModel('deepseek_v3', async (model) => {
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

  it.each([false, true])(
    'ends before a stop string, nothing of which is ever given out (speculative: %s)',
    (speculative) =>
      withTextModel('deepseek_v3_mtp', async (model) => {
        const { text: whole } = await model.generateText('Hi', { ...options, speculative });
        expect(whole.length).toBeGreaterThan(30);
        for (const [from, to] of [
          [0, 1],
          [7, 12],
          [20, 28],
          [whole.length - 2, whole.length],
        ] as const) {
          const stop = whole.slice(from, to);
          const pieces = [];
          for await (const piece of model.generate('Hi', { ...options, speculative, stop: ['never', stop] }))
            pieces.push(piece);
          expect(pieces.map(({ text }) => text).join('')).toBe(whole.slice(0, whole.indexOf(stop)));
          expect(pieces.map(({ finishReason }) => finishReason)).toEqual([
            ...Array(pieces.length - 1).fill(null),
            'stop',
          ]);
        }
        // What only looked like its beginning comes out at the end.
        const unfinished = `${whole.slice(-3)}!!!`;
        expect(await model.generateText('Hi', { ...options, speculative, stop: [unfinished] })).toMatchObject({
          text: whole,
          finishReason: 'length',
        });
      }),
  );

  it('ends at a special token that is a stop string', () =>
    withTextModel('deepseek_v3', async (model) => {
      const long = { ...options, temperature: 20, maxTokens: 60 };
      const { ids } = await model.generateText('Hi', long);
      const end = ids.indexOf(100);
      expect(end).toBeGreaterThan(0);
      const { ids: cut, text, finishReason } = await model.generateText('Hi', { ...long, stop: ['<|im_end|>'] });
      expect(cut).toEqual(ids.slice(0, end + 1));
      expect(text).toBe(await model.tokenizer?.decode(cut));
      expect(finishReason).toBe('stop');
    }));

  it('is needed for stop strings', async () => {
    using model = await open('deepseek_v3');
    const refused = { code: 'HADAL_ERR_CONFIG', message: expect.stringContaining("'stop'") };
    await expect(model.generateText([1], { stop: ['x'] })).rejects.toMatchObject(refused);
    await withTextModel('deepseek_v3', async (speaking) => {
      await expect(speaking.generateText('x', { stop: [''] })).rejects.toMatchObject(refused);
    });
  });
});
