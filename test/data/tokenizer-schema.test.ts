// Components as published tokenizer.json files have them, around a small vocabulary. What is let through must encode and
// decode as the library alone does.
import { Tokenizer as Library } from 'tokenizers';
import { describe, expect, it } from 'vitest';
import { createTokenizer } from '../../src/data/tokenizer.js';
import { checkedTokenizer } from '../../src/data/tokenizer-schema.js';

type Json = Record<string, unknown>;

const split = (Regex: string, change: Json = {}): Json => ({
  type: 'Split',
  pattern: { Regex },
  behavior: 'Isolated',
  invert: false,
  ...change,
});
const bytes = (change: Json = {}): Json => ({
  type: 'ByteLevel',
  add_prefix_space: false,
  trim_offsets: true,
  use_regex: false,
  ...change,
});
const pretokenizers = (...parts: Json[]): Json => ({ type: 'Sequence', pretokenizers: parts });
const replace = (from: string, content: string): Json => ({ type: 'Replace', pattern: { String: from }, content });
const added = (id: number, content: string, change: Json = {}): Json => ({
  id,
  content,
  single_word: false,
  lstrip: false,
  rstrip: false,
  normalized: false,
  special: true,
  ...change,
});
const bpe = {
  type: 'BPE',
  dropout: null,
  unk_token: null,
  continuing_subword_prefix: null,
  end_of_word_suffix: null,
  fuse_unk: false,
  byte_fallback: false,
};

/** Byte-level: a word for each byte, in GPT-2's characters, and a few more. */
const byteCharacters = [...Array(256).keys()].map((byte) => {
  const isPlain = (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
  const before = byte <= 32 ? byte : byte <= 160 ? byte - 94 : 67;
  return String.fromCodePoint(isPlain ? byte : 256 + before);
});
const pairs = ['t h', 'Ġ th', 'Ġth e', 'i n', 'a t', 'Ġ Ġ', "' s", '1 2'];
const byteVocab = Object.fromEntries(
  [...byteCharacters, ...pairs.map((pair) => pair.replace(' ', '')), 'Ġcats'].map((word, id) => [word, id]),
);
const byteModel = (change: Json = {}) => ({ ...bpe, ...change, vocab: byteVocab, merges: pairs });
const mergeLists = pairs.map((pair) => pair.split(' '));

/** SentencePiece's: unknown, byte and plain words. */
const piecePairs = ['▁ t', '▁t h', '▁th e', 'i n', 'a t', '▁ ▁'];
const pieceVocab = Object.fromEntries(
  [
    ...['<unk>', '<s>', '</s>'],
    ...[...Array(256).keys()].map((byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`),
    ..."▁abcdefghijklmnopqrstuvwxyzT.,'",
    ...piecePairs.map((pair) => pair.replace(' ', '')),
  ].map((word, id) => [word, id]),
);
const pieceModel = (change: Json = {}) => ({
  ...bpe,
  unk_token: '<unk>',
  fuse_unk: true,
  byte_fallback: true,
  ...change,
  vocab: pieceVocab,
  merges: piecePairs,
});
const pieceTokens = [added(0, '<unk>'), added(1, '<s>'), added(2, '</s>')];
const pieceDecoders = [replace('▁', ' '), { type: 'ByteFallback' }, { type: 'Fuse' }];
const strip = { type: 'Strip', content: ' ', start: 1, stop: 0 };
const template = {
  type: 'TemplateProcessing',
  single: [{ SpecialToken: { id: '<s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
  pair: [{ Sequence: { id: 'A', type_id: 0 } }, { Sequence: { id: 'B', type_id: 1 } }],
  special_tokens: { '<s>': { id: '<s>', ids: [1], tokens: ['<s>'] } },
};

const words = (digits: string) =>
  String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|${digits}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`;
const upper = String.raw`\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}`;
const lower = String.raw`\p{Ll}\p{Lm}\p{Lo}\p{M}`;
const o200k = (contraction: string, digits: string) =>
  String.raw`[^\r\n\p{L}\p{N}]?[${upper}]*[${lower}]+${contraction}|[^\r\n\p{L}\p{N}]?[${upper}]+[${lower}]*${contraction}|${digits}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`;

const published: Record<string, Json> = {
  'GPT-2, whose model has no type': {
    added_tokens: [added(300, '<|endoftext|>', { normalized: true })],
    normalizer: null,
    pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true },
    post_processor: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: false },
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true },
    model: {
      dropout: null,
      unk_token: '',
      continuing_subword_prefix: '',
      end_of_word_suffix: '',
      fuse_unk: false,
      vocab: byteVocab,
      merges: pairs,
    },
  },
  'Llama 3': {
    added_tokens: [added(300, '<|begin_of_text|>'), added(301, '<|eot_id|>')],
    pre_tokenizer: pretokenizers(split(words(String.raw`\p{N}{1,3}`)), bytes()),
    post_processor: { type: 'Sequence', processors: [bytes({ trim_offsets: false }), template] },
    decoder: bytes({ add_prefix_space: true, use_regex: true }),
    model: byteModel({ ignore_merges: true }),
  },
  'Qwen2.5, with merges as lists': {
    added_tokens: [added(300, '<|im_end|>'), added(301, '<tool_call>', { special: false })],
    normalizer: { type: 'NFC' },
    pre_tokenizer: pretokenizers(split(words(String.raw`\p{N}`)), bytes({ trim_offsets: false })),
    post_processor: bytes({ trim_offsets: false }),
    decoder: bytes({ trim_offsets: false }),
    model: {
      ...byteModel({ continuing_subword_prefix: '', end_of_word_suffix: '', ignore_merges: false }),
      merges: mergeLists,
    },
  },
  'DeepSeek-V2-Lite': {
    added_tokens: [added(300, '<｜begin▁of▁sentence｜>', { normalized: true })],
    normalizer: { type: 'Sequence', normalizers: [] },
    pre_tokenizer: pretokenizers(
      split('[\r\n]'),
      split('\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿDŽ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫ𐐀-𐑏𞤀-𞥃]+'),
      split('\\s?[!-/:-~！-／：-～‘-‟　-。]+'),
      split('\\s+$'),
      split('[一-龥ࠀ-一가-퟿]+'),
      { type: 'Digits', individual_digits: true },
      bytes(),
    ),
    post_processor: bytes({ trim_offsets: false }),
    decoder: bytes({ add_prefix_space: true, use_regex: true }),
    model: byteModel(),
  },
  'DeepSeek-V3 and R1': {
    added_tokens: [added(300, '<｜User｜>', { special: false }), added(301, '<｜end▁of▁sentence｜>')],
    normalizer: { type: 'Sequence', normalizers: [] },
    pre_tokenizer: pretokenizers(
      split(String.raw`\p{N}{1,3}`),
      split('[一-龥぀-ゟ゠-ヿ]+'),
      split(
        '[!"#$%&\'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+',
      ),
      bytes(),
    ),
    decoder: bytes({ add_prefix_space: true, use_regex: true }),
    model: byteModel(),
  },
  'DeepSeek-R1-Distill-Qwen': {
    added_tokens: [added(300, '<｜begin▁of▁sentence｜>'), added(301, '<think>', { special: false })],
    normalizer: { type: 'Sequence', normalizers: [] },
    pre_tokenizer: pretokenizers(split(words(String.raw`\p{N}`)), bytes()),
    post_processor: { type: 'Sequence', processors: [bytes({ trim_offsets: false }), template] },
    decoder: bytes({ add_prefix_space: true, use_regex: true }),
    model: byteModel(),
  },
  'Mistral Nemo': {
    added_tokens: [added(300, '[INST]')],
    pre_tokenizer: pretokenizers(split(o200k('', String.raw`\p{N}`)), bytes()),
    decoder: bytes({ add_prefix_space: true, use_regex: true }),
    model: byteModel({ ignore_merges: true }),
  },
  'GPT-4o, which removes what does not match': {
    pre_tokenizer: pretokenizers(
      split(o200k("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", String.raw`\p{N}{1,3}`), { behavior: 'Removed', invert: true }),
      bytes(),
    ),
    post_processor: null,
    decoder: bytes({ add_prefix_space: true, use_regex: true }),
    model: byteModel(),
  },
  'Pythia, with tokens of spaces': {
    added_tokens: [added(300, '    ', { normalized: true, special: false }), added(301, '<|padding|>')],
    normalizer: { type: 'NFC' },
    pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true },
    decoder: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true },
    model: byteModel(),
  },
  Falcon: {
    added_tokens: [added(300, '<|endoftext|>')],
    pre_tokenizer: pretokenizers(
      { type: 'Punctuation', behavior: 'Contiguous' },
      { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true },
      { type: 'Digits', individual_digits: false },
      split('[0-9][0-9][0-9]'),
    ),
    decoder: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true },
    model: byteModel(),
  },
  'Llama 2 and Mistral 7B v0.1': {
    added_tokens: pieceTokens,
    normalizer: { type: 'Sequence', normalizers: [{ type: 'Prepend', prepend: '▁' }, replace(' ', '▁')] },
    pre_tokenizer: null,
    post_processor: template,
    decoder: { type: 'Sequence', decoders: [...pieceDecoders, strip] },
    model: pieceModel(),
  },
  'Mistral 7B v0.3': {
    added_tokens: pieceTokens,
    normalizer: null,
    pre_tokenizer: { type: 'Metaspace', replacement: '▁', prepend_scheme: 'first', split: false },
    decoder: { type: 'Sequence', decoders: [...pieceDecoders, strip] },
    model: pieceModel({ ignore_merges: false }),
  },
  'Llama from before 2023-08: the old Metaspace': {
    added_tokens: pieceTokens,
    pre_tokenizer: { type: 'Metaspace', replacement: '▁', add_prefix_space: true, str_rep: '▁' },
    decoder: { type: 'Metaspace', replacement: '▁', add_prefix_space: true, str_rep: '▁' },
    model: pieceModel(),
  },
  'Phi-3, whose tokens take the space behind them': {
    added_tokens: [
      ...pieceTokens.slice(0, 2),
      added(2, '</s>', { rstrip: true }),
      added(301, '<|end|>', { rstrip: true }),
    ],
    normalizer: { type: 'Sequence', normalizers: [{ type: 'Prepend', prepend: '▁' }, replace(' ', '▁')] },
    decoder: { type: 'Sequence', decoders: [...pieceDecoders, strip] },
    model: pieceModel(),
  },
  Gemma: {
    added_tokens: pieceTokens,
    normalizer: replace(' ', '▁'),
    pre_tokenizer: { type: 'Split', pattern: { String: ' ' }, behavior: 'MergedWithPrevious', invert: false },
    decoder: { type: 'Sequence', decoders: pieceDecoders },
    model: pieceModel(),
  },
  'one that lowers letters and takes accents off': {
    added_tokens: pieceTokens,
    normalizer: { type: 'Sequence', normalizers: [{ type: 'NFD' }, { type: 'Lowercase' }, { type: 'StripAccents' }] },
    pre_tokenizer: { type: 'Metaspace', replacement: '▁', prepend_scheme: 'always', split: true },
    decoder: { type: 'Metaspace', replacement: '▁', prepend_scheme: 'always', split: true },
    model: pieceModel(),
  },
};

const texts = [
  "The cat's in the hat, at 12:34. It's THE 12345th  cats!",
  '  two  spaces\tand\n\n  lines \r\n ',
  '中文，한국어 and カタカナ, naïve e\u0301, ﬁ',
  '<s>a</s> b<|endoftext|> the<|eot_id|>\n<|im_end|>    x<｜User｜>y[INST]z<|end|> the',
  '👩‍👩‍👧 \0 \u00a0\u3000',
  '',
];

/** What the library alone makes of the file, with the parts that only place or cut what it gives left out. */
const setAside = { truncation: null, padding: null, post_processor: null };

describe.each(Object.entries(published))('%s', (_, tokenizer) => {
  const json = { version: '1.0', truncation: null, padding: null, ...tokenizer };

  it('encodes and decodes as the library alone', async () => {
    const ours = createTokenizer(JSON.stringify(json));
    const library = Library.fromString(JSON.stringify(json));
    const ids = await Promise.all(
      texts.map(async (text) => (await library.encode(text, null, { addSpecialTokens: false })).getIds()),
    );
    expect((await ours.encodeBatch(texts)).map((row) => [...row])).toEqual(ids);
    expect(new Set(ids.flat()).size).toBeGreaterThan(20);
    for (const row of ids)
      for (const skipSpecialTokens of [true, false])
        expect(await ours.decode(row, { skipSpecialTokens })).toBe(await library.decode(row, skipSpecialTokens));
    expect(ours.vocabSize).toBe(Math.max(...Object.values(library.getVocab(true))) + 1);
  });

  it('gives the same ids whatever it would cut, pad, place or drop', async () => {
    const { model } = json as unknown as { model: Json };
    const other = {
      ...json,
      truncation: { direction: 'Right', max_length: 3, strategy: 'LongestFirst', stride: 0 },
      padding: { strategy: { Fixed: 90 }, direction: 'Left', pad_id: 0, pad_type_id: 0, pad_token: 'x' },
      post_processor: template,
      model: { ...model, dropout: 0.9 },
    };
    const [plain, changed] = [{ ...json, ...setAside }, other].map((file) => createTokenizer(JSON.stringify(file)));
    expect(await changed?.encodeBatch(texts)).toEqual(await plain?.encodeBatch(texts));
  });
});

describe('a field that is not taken is named', () => {
  const base: Json = { ...published['Llama 3'], version: '1.0' };
  const model = (change: Json) => ({ model: { ...(base.model as Json), ...change } });
  const refused: [string, Json, RegExp][] = [
    ['another kind of model', model({ type: 'Unigram' }), /for model\.type of file, got "Unigram"/],
    [
      'a word without an id',
      model({ vocab: { a: 0, b: -1 } }),
      /ids from 0 to \d+ for model\.vocab\.b of file, got -1/,
    ],
    ['an id that is a text', model({ vocab: { a: '0' } }), /for model\.vocab\.a of file, got "0"/],
    ['a list of words', model({ vocab: ['a'] }), /expected words with ids .* for model\.vocab of file/],
    ['no words', model({ vocab: null }), /for model\.vocab of file, got null/],
    [
      'merges of three',
      model({ merges: ['a b', ['a', 'b', 'c']] }),
      /expected merges of two .* for model\.merges\.1 of/,
    ],
    ['merges of numbers', model({ merges: [[1, 2]] }), /for model\.merges\.0 of file/],
    [
      'a merge to a longer word than any',
      model({ merges: ['a b', ['Ġcat', 'Ġcat']], vocab: { a: 0, b: 1, ab: 2, Ġcat: 3 } }),
      /expected merges to words of at most 5 bytes, as in its vocabulary, for model\.merges of file, got \[ 'Ġcat', 'Ġcat' \]/,
    ],
    ['merges by name', model({ merges: { a: 'b' } }), /for model\.merges of file/],
    ['an end of words (CLIP)', model({ end_of_word_suffix: '</w>' }), /for model\.end_of_word_suffix of file/],
    [
      'SentencePiece tables (T5)',
      { normalizer: { type: 'Precompiled', precompiled_charsmap: 'AA' } },
      /for normalizer\.type of/,
    ],
    [
      'a part of a list (BERT)',
      { pre_tokenizer: pretokenizers(bytes(), { type: 'BertPreTokenizer' }) },
      /for pre_tokenizer\.pretokenizers\.1\.type of file, got "BertPreTokenizer"/,
    ],
    [
      'another decoder (BERT)',
      { decoder: { type: 'WordPiece', prefix: '##', cleanup: true } },
      /for decoder\.type of file/,
    ],
    [
      'a pattern that could hang',
      { pre_tokenizer: split('(a+)+b') },
      /with repetitions within a repetition for pre_tokenizer\.pattern/,
    ],
    [
      'a list in the list of another kind',
      { pre_tokenizer: { type: 'Sequence', normalizers: [] } },
      /for pre_tokenizer\.pretokenizers of file, got nothing/,
    ],
    [
      'an added token without its flags',
      { added_tokens: [{ id: 0, content: 'a' }] },
      /for added_tokens\.0\.single_word of/,
    ],
    [
      'an added token of which nothing is left',
      { normalizer: { type: 'StripAccents' }, added_tokens: [added(300, '\u0301', { normalized: true })] },
      /expected added tokens that are not normalized beside a normalizer that deletes text in file/,
    ],
  ];
  it.each(refused)('%s', (_, change, message) => {
    expect(() => checkedTokenizer(JSON.stringify({ ...base, ...change }), 'file')).toThrow(
      expect.objectContaining({ code: 'HADAL_ERR_FORMAT', message: expect.stringMatching(message) }),
    );
  });
});

it('a text of characters that are not there, without a word for them, is refused', async () => {
  const lacking = { version: '1.0', model: { ...bpe, unk_token: '', vocab: { a: 0 }, merges: [] } };
  const tokenizer = createTokenizer(JSON.stringify(lacking));
  expect(await tokenizer.encode('aa')).toEqual(Int32Array.of(0, 0));
  await expect(tokenizer.encode('ab')).rejects.toMatchObject({
    code: 'HADAL_ERR_FORMAT',
    message: expect.stringMatching(/expected words for every character of the text, got .*not found in the vocabulary/),
  });
});
