import { existsSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { HadalError } from '../../src/core/errors.js';
import { type LoadedModel, loadModel } from '../../src/generate/loaded-model.js';
import { openModelSource } from '../../src/session/model-source.js';
import { openSession } from '../../src/session/session.js';
import { inspect } from '../../src/train/inspect.js';
import { entry, gguf, type TensorInfo } from '../formats/write-gguf.js';
import { goldenDir, readGolden, rowsOf } from '../goldens/golden.js';
import { type GgufParts, ggufParts, vector } from './gguf-models.js';
import { withDirectory } from './model-copies.js';

const cpu = { device: 'cpu', threads: 1 };
const logitsOf = async (path: string, ids: number[][], options = {}) => {
  using session = await openSession(path, { ...cpu, ...options });
  return (await session.forward(ids)).logits;
};

describe('a model from GGUF', () => {
  it.each(['llama', 'llama_biases', 'qwen2'])('%s is that of the directory', async (name) => {
    await withDirectory(async (dir) => {
      const path = join(dir, 'x.gguf');
      const { entries, tensors } = await ggufParts(name);
      await writeFile(path, gguf(entries, tensors));
      const ids = rowsOf(await readGolden(name), 'input_ids');
      expect(await logitsOf(path, ids)).toEqual(await logitsOf(goldenDir(name), ids));
    });
  });

  it('is converted to the format it is opened in', () =>
    withDirectory(async (dir) => {
      const path = join(dir, 'X.GGUF');
      const { entries, tensors } = await ggufParts('llama');
      await writeFile(path, gguf(entries, tensors));
      const ids = rowsOf(await readGolden('llama'), 'input_ids');
      const bf16 = { dtype: 'bf16' };
      expect(await logitsOf(path, ids, bf16)).toEqual(await logitsOf(goldenDir('llama'), ids, bf16));
    }));

  /** The config.json of a golden's file with other entries and tensors. */
  const configWith = async (name: string, change: (parts: GgufParts) => GgufParts) => {
    let config: Record<string, unknown> = {};
    await withDirectory(async (dir) => {
      const path = join(dir, 'x.gguf');
      const { entries, tensors } = change(await ggufParts(name));
      await writeFile(path, gguf(entries, tensors));
      config = (await openModelSource(path)).model.toHuggingFace();
    });
    return config;
  };

  it('has the scaling of Llama 3 by its table of factors', async () => {
    const theta = 100_000;
    // As llama.cpp's converter computes them for Llama 3.1: factor 8, wavelengths beyond 8192 / 4 and 8192.
    const factors = Array.from({ length: 5 }, (_, i) => {
      const wavelength = 2 * Math.PI * theta ** (i / 5);
      if (wavelength < 8192 / 4) return 1;
      if (wavelength > 8192) return 8;
      const smooth = (8192 / wavelength - 1) / (4 - 1);
      return 1 / ((1 - smooth) / 8 + smooth);
    });
    expect(factors.map(Math.round)).toEqual([1, 1, 1, 5, 8]);
    const withFactors = (numbers: number[], keep = /^(?!.*rope\.(freq_base|scaling))/) =>
      configWith('llama_biases', ({ entries, tensors }) => ({
        entries: [...entries.filter(([key]) => keep.test(key)), entry.f32('llama.rope.freq_base', theta)],
        tensors: [...tensors, vector('rope_freqs.weight', numbers)],
      }));
    expect((await withFactors(factors)).rope_scaling).toEqual({
      type: 'llama3',
      factor: 8,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 8192,
    });
    const refused = { code: 'HADAL_ERR_CONFIG', message: expect.stringMatching(/rope_freqs\.weight.*llama3/) };
    await expect(withFactors([1, 1, 1, 4, 8])).rejects.toMatchObject(refused);
    await expect(withFactors([1, 8])).rejects.toMatchObject(refused);
    await expect(withFactors(factors, /^(?!.*rope\.freq_base)/)).rejects.toThrow(/rope\.scaling\.type.*none.*linear/);
  });

  it('has YaRN by its keys', async () => {
    const config = await configWith('qwen2', ({ entries, tensors }) => ({
      tensors,
      entries: [
        ...entries,
        entry.text('qwen2.rope.scaling.type', 'yarn'),
        entry.f32('qwen2.rope.scaling.factor', 4),
        entry.u32('qwen2.rope.scaling.original_context_length', 16),
      ],
    }));
    expect(config.rope_scaling).toEqual({ type: 'yarn', factor: 4, original_max_position_embeddings: 16 });
    expect(config.rms_norm_eps).toBe(1e-5);
    expect(config.tie_word_embeddings).toBe(true);
  });

  it('takes what newer converters add where it changes nothing, and YaRN has its ramp', async () => {
    const config = await configWith('qwen2', ({ entries, tensors }) => ({
      tensors,
      entries: [
        ...entries,
        entry.text('qwen2.rope.scaling.type', 'yarn'),
        entry.f32('qwen2.rope.scaling.factor', 4),
        entry.u32('qwen2.rope.scaling.original_context_length', 16),
        entry.f32('qwen2.rope.scaling.attn_factor', 1),
        entry.f32('qwen2.rope.scaling.yarn_ext_factor', 1),
        entry.f32('qwen2.rope.scaling.yarn_attn_factor', 1),
        entry.f32('qwen2.rope.scaling.yarn_log_multiplier', 0),
        entry.f32('qwen2.rope.scaling.yarn_beta_fast', 24.1),
        entry.f32('qwen2.rope.scaling.yarn_beta_slow', 2),
        entry.u32('qwen2.attention.sliding_window', 2 ** 20),
      ],
    }));
    const ramp = { beta_fast: 24.1, beta_slow: 2 };
    expect(config.rope_scaling).toEqual({ type: 'yarn', factor: 4, original_max_position_embeddings: 16, ...ramp });
  });
});

describe('a GGUF model is refused', () => {
  const refused = (what: string, change: (parts: GgufParts) => GgufParts, code: string, message: RegExp) =>
    it(what, () =>
      withDirectory(async (dir) => {
        const path = join(dir, 'bad.gguf');
        const { entries, tensors } = change(await ggufParts('llama'));
        await writeFile(path, gguf(entries, tensors));
        const error = await openSession(path, cpu).catch((e: unknown) => e);
        expect(error).toMatchObject({ code, message: expect.stringMatching(message) });
        expect((error as Error).message).toContain('bad.gguf');
      }),
    );
  const put =
    (key: string, value: number) =>
    ({ entries, tensors }: GgufParts) => ({
      tensors,
      entries: [...entries.filter(([name]) => name !== key), entry.u32(key, value)],
    });
  const tensors = (change: (tensors: TensorInfo[]) => TensorInfo[]) => (parts: GgufParts) => ({
    ...parts,
    tensors: change(parts.tensors),
  });

  refused(
    'of another architecture',
    (parts) => ({ ...parts, entries: [entry.text('general.architecture', 'gemma')] }),
    'HADAL_ERR_CONFIG',
    /general\.architecture.*llama or qwen2.*gemma/,
  );
  refused('without architecture', (parts) => ({ ...parts, entries: [] }), 'HADAL_ERR_CONFIG', /architecture.*nothing/);
  refused('with a setting unknown', put('llama.logit_scale', 2), 'HADAL_ERR_CONFIG', /'llama\.logit_scale' is unknown/);
  refused('with a window', put('llama.attention.sliding_window', 4), 'HADAL_ERR_CONFIG', /window.*at least \d+.*got 4/);
  refused('with another scale', put('llama.rope.scaling.attn_factor', 2), 'HADAL_ERR_CONFIG', /attn_factor.* 1, got 2/);
  refused('with experts', put('llama.expert_count', 8), 'HADAL_ERR_CONFIG', /expert_count.*expected 0.*8/);
  refused('with half rotary', put('llama.rope.dimension_count', 2), 'HADAL_ERR_CONFIG', /dimension_count.*expected 4/);
  refused('with too many layers', put('llama.block_count', 9000), 'HADAL_ERR_CONFIG', /block_count.*expected 2.*9000/);
  refused('with another width', put('llama.embedding_length', 2 ** 31), 'HADAL_ERR_CONFIG', /embedding_length.*24/);
  refused('with other heads', put('llama.attention.head_count', 7), 'HADAL_ERR_CONFIG', /head_count.*heads of 4/);
  refused('with other kv heads', put('llama.attention.head_count_kv', 3), 'HADAL_ERR_CHECKPOINT', /k_proj/);
  refused('with a wider MLP', put('llama.feed_forward_length', 2 ** 30), 'HADAL_ERR_CHECKPOINT', /mlp.*1073741824/);
  refused(
    'without context',
    ({ entries, ...rest }) => ({ ...rest, entries: entries.filter(([key]) => !key.endsWith('context_length')) }),
    'HADAL_ERR_CONFIG',
    /context_length.*nothing/,
  );
  refused(
    'without tensors',
    tensors(() => []),
    'HADAL_ERR_CONFIG',
    /embedding_length/,
  );
  refused(
    'with a tensor missing',
    tensors((all) => all.filter(({ name }) => name !== 'blk.1.ffn_up.weight')),
    'HADAL_ERR_CHECKPOINT',
    /model\.layers\.1\.mlp\.up_proj\.weight/,
  );
  refused(
    'with a tensor too many',
    tensors((all) => [...all, vector('blk.0.extra.weight', [1])]),
    'HADAL_ERR_CHECKPOINT',
    /'blk\.0\.extra\.weight'/,
  );
  refused(
    'with a type that is not read',
    tensors((all) =>
      all.map((tensor) =>
        tensor.name === 'output_norm.weight' ? { ...tensor, dims: [24], type: 24, data: new Uint8Array(24) } : tensor,
      ),
    ),
    'HADAL_ERR_DTYPE',
    /'output_norm\.weight'.*I8/,
  );

  it(
    'or answered with a HadalError, whatever bytes are changed',
    () =>
      withDirectory(async (dir) => {
        const path = join(dir, 'mutated.gguf');
        const { entries, tensors } = await ggufParts('llama');
        const vocabulary = [
          entry.text('tokenizer.ggml.model', 'llama'),
          entry.texts('tokenizer.ggml.tokens', ['<unk>', '<s>', 'a', 'b', 'ab']),
          entry.f32s('tokenizer.ggml.scores', [0, 0, -1, -2, -3]),
          entry.i32s('tokenizer.ggml.token_type', [2, 3, 1, 1, 1]),
        ];
        const whole = gguf([...entries, ...vocabulary], tensors);
        const header = whole.length - tensors.reduce((sum, { data }) => sum + data.length, 0);
        const edit = fc.tuple(fc.nat(header - 8), fc.uint8Array({ minLength: 1, maxLength: 8 }));
        let refusals = 0;
        await fc.assert(
          fc.asyncProperty(fc.array(edit, { minLength: 1, maxLength: 3 }), async (edits) => {
            const changed = whole.slice();
            for (const [at, bytes] of edits) changed.set(bytes, at);
            await writeFile(path, changed);
            try {
              (await openSession(path, cpu)).dispose();
            } catch (error) {
              refusals++;
              expect(error).toBeInstanceOf(HadalError);
              expect((error as HadalError).code).not.toBe('HADAL_ERR_INTERNAL');
            }
          }),
          { numRuns: 300, seed: Number(process.env.HADAL_FUZZ_SEED ?? 1) },
        );
        expect(refusals).toBeGreaterThan(100);
      }),
    60_000,
  );
});

const stories = fileURLToPath(new URL('../../../shared/data/stories260K.gguf', import.meta.url));
describe.skipIf(!existsSync(stories))('stories260K (skipped without shared data)', () => {
  it('goes on with a space where the prompt ends with a word', async () => {
    using model = await loadModel(stories, cpu);
    const { text } = await model.generateText('Once upon', { temperature: 0, maxTokens: 4 });
    expect(text).toMatch(/^ a time/);
  });

  const greedy = async (model: LoadedModel, maxTokens: number) => {
    const ids: number[] = [];
    let text = '';
    for await (const piece of model.generate('', { maxTokens, temperature: 0 })) {
      ids.push(piece.id);
      text += piece.text;
    }
    return { ids, text };
  };

  it('tells the published story, token by token as transformers does', async () => {
    const expected = JSON.parse(await readFile(new URL('./stories-goldens.json', import.meta.url), 'utf8')) as number[];
    using model = await loadModel(stories, cpu);
    const { ids, text } = await greedy(model, expected.length);
    expect(text).toMatch(
      /^Once upon a time, there was a little girl named Lily\. She loved to play outside in the park\. One day, she saw a big, red ball\./,
    );
    expect(ids).toEqual(expected);
  });

  it('saved as a directory is the same model with the same tokenizer', () =>
    withDirectory(async (dir) => {
      const saved = join(dir, 'saved');
      using model = await loadModel(stories, cpu);
      await model.save(saved);
      using again = await loadModel(saved, cpu);
      expect(again.model.toHuggingFace()).toEqual(model.model.toHuggingFace());
      expect(again.tokenizer?.files).toEqual(model.tokenizer?.files);
      expect((await again.forward([[1, 403, 407]])).logits).toEqual((await model.forward([[1, 403, 407]])).logits);
    }));

  it('is counted without being loaded', async () => {
    const { family, model, layers } = await inspect(stories, { plan: false });
    // A layer has 64² weights for queries and for the output, half of it for keys and for values, the MLP, two norms.
    const expected = 5 * (3 * 64 * 64 + 3 * 64 * 172 + 2 * 64) + 2 * 512 * 64 + 64;
    expect([family, layers, model.parameters]).toEqual(['llama', 5, expected]);
  });
});
