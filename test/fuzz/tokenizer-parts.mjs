// Components that a tokenizer.json may have: those that hadal takes, and those over which the library ends the process.
import { pick } from './mutate.mjs';

const parts = {
  normalizer: [
    { type: 'NFC' },
    { type: 'NFKC' },
    { type: 'Lowercase' },
    { type: 'Prepend', prepend: '▁' },
    { type: 'Replace', pattern: { String: '' }, content: 'x' },
    { type: 'Replace', pattern: { String: ' ' }, content: '▁' },
    { type: 'Replace', pattern: { Regex: 'a+' }, content: '' },
    { type: 'Replace', pattern: { Regex: '' }, content: 'zz' },
    { type: 'Precompiled', precompiled_charsmap: 'AAAA' },
    { type: 'Precompiled', precompiled_charsmap: 'ALQCAACEAAAAAACAAQAAgMz8AgC4BQAAhyIAgMzkAgC4PQAA' },
    { type: 'Precompiled', precompiled_charsmap: 'CAAAAAEAAAD/////AAAA' },
    { type: 'StripAccents' },
    { type: 'BertNormalizer', clean_text: true, handle_chinese_chars: true, strip_accents: null, lowercase: true },
    { type: 'ByteLevel' },
    { type: 'Strip', strip_left: true, strip_right: true },
    { type: 'Nmt' },
  ],
  pre_tokenizer: [
    { type: 'Whitespace' },
    { type: 'WhitespaceSplit' },
    { type: 'Metaspace', replacement: '▁', prepend_scheme: 'always', split: true },
    { type: 'Digits', individual_digits: true },
    { type: 'Punctuation', behavior: 'Isolated' },
    { type: 'BertPreTokenizer' },
    { type: 'UnicodeScripts' },
    { type: 'FixedLength', length: 0 },
    { type: 'FixedLength', length: 3 },
    { type: 'CharDelimiterSplit', delimiter: ' ' },
    { type: 'Split', pattern: { String: '' }, behavior: 'MergedWithNext', invert: true },
    { type: 'Split', pattern: { Regex: '' }, behavior: 'Removed', invert: false },
    { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
  ],
  decoder: [
    { type: 'WordPiece', prefix: '##', cleanup: true },
    { type: 'ByteFallback' },
    { type: 'Fuse' },
    { type: 'Strip', content: 'a', start: 4294967295, stop: 3 },
    { type: 'Strip', content: ' ', start: 1, stop: 0 },
    { type: 'CTC', pad_token: '<pad>', word_delimiter_token: '|', cleanup: true },
    { type: 'Metaspace', replacement: '▁', prepend_scheme: 'always', split: true },
    { type: 'BPEDecoder', suffix: '</w>' },
    { type: 'Replace', pattern: { String: '' }, content: 'y' },
  ],
  model: [
    {
      type: 'WordPiece',
      unk_token: '[UNK]',
      continuing_subword_prefix: '##',
      max_input_chars_per_word: 100,
      vocab: { a: 0, b: 1 },
    },
    {
      type: 'WordPiece',
      unk_token: 'a',
      continuing_subword_prefix: '##',
      max_input_chars_per_word: 0,
      vocab: { a: 0 },
    },
    {
      type: 'Unigram',
      unk_id: 0,
      vocab: [
        ['a', -1],
        ['b', -2],
      ],
      byte_fallback: true,
    },
    { type: 'Unigram', unk_id: 7, vocab: [['a', -1]], byte_fallback: false },
    { type: 'Unigram', unk_id: null, vocab: [], byte_fallback: false },
    {
      type: 'Unigram',
      unk_id: null,
      vocab: [
        ['a', 1e308],
        ['', 0],
      ],
      byte_fallback: false,
    },
    { type: 'WordLevel', vocab: { a: 0 }, unk_token: 'q' },
    {
      type: 'BPE',
      dropout: 0.5,
      unk_token: 'zz',
      continuing_subword_prefix: '@@',
      end_of_word_suffix: '</w>',
      fuse_unk: true,
      byte_fallback: true,
      vocab: { a: 0, t: 1, at: 4000000000 },
      merges: [['a', 't']],
    },
    { type: 'BPE', vocab: { a: 0, b: 1, ab: 2 }, merges: ['a b'] },
    { type: 'BPE', dropout: 2, vocab: { a: 0, b: 1, ab: 2 }, merges: ['a b'] },
  ],
  post_processor: [
    { type: 'ByteLevel', add_prefix_space: true, trim_offsets: false, use_regex: true },
    { type: 'TemplateProcessing', single: [{ Sequence: { id: 'A', type_id: 0 } }], pair: [], special_tokens: {} },
    {
      type: 'TemplateProcessing',
      single: [{ SpecialToken: { id: 'x', type_id: 0 } }],
      pair: [{ Sequence: { id: 'B', type_id: 9 } }],
      special_tokens: { x: { id: 'x', ids: [1], tokens: ['x'] } },
    },
    { type: 'RobertaProcessing', sep: ['</s>', 2], cls: ['<s>', 0], trim_offsets: true, add_prefix_space: true },
    { type: 'BertProcessing', sep: ['</s>', 2], cls: ['<s>', 0] },
  ],
  truncation: [
    { direction: 'Right', max_length: 0, strategy: 'LongestFirst', stride: 10 },
    { direction: 'Left', max_length: 3, strategy: 'OnlySecond', stride: 3 },
  ],
  padding: [
    { strategy: { Fixed: 0 }, direction: 'Left', pad_to_multiple_of: 0, pad_id: 0, pad_type_id: 0, pad_token: 'x' },
    { strategy: 'BatchLongest', direction: 'Left', pad_to_multiple_of: 0, pad_id: 0, pad_type_id: 0, pad_token: 'x' },
  ],
};

const lists = {
  normalizer: 'normalizers',
  pre_tokenizer: 'pretokenizers',
  decoder: 'decoders',
  post_processor: 'processors',
};

const letters = [...'abcdefghijklmnopqrstuvwxyz .,\nĠT0123456789'];
const merges = ['t h', 'th e', 'a t', 'c at', 'Ġ th'].map((merge) => merge.split(' '));

/** A byte-pair tokenizer of a few letters. */
export const smallTokenizer = {
  version: '1.0',
  truncation: null,
  padding: null,
  added_tokens: [
    {
      id: 60,
      content: '<|endoftext|>',
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    },
  ],
  normalizer: null,
  pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true },
  post_processor: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true },
  decoder: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true },
  model: {
    type: 'BPE',
    dropout: null,
    unk_token: null,
    continuing_subword_prefix: null,
    end_of_word_suffix: null,
    fuse_unk: false,
    byte_fallback: false,
    ignore_merges: false,
    vocab: Object.fromEntries([...letters, ...merges.map((pair) => pair.join(''))].map((token, id) => [token, id])),
    merges,
  },
};

/** The same with other components, alone or in sequences, and other added tokens. */
export function composeTokenizer(next) {
  const tokenizer = structuredClone(smallTokenizer);
  for (const [name, choices] of Object.entries(parts)) {
    if (next() < 0.5) continue;
    const part = () => structuredClone(pick(next, choices));
    const list = lists[name];
    tokenizer[name] =
      list && next() < 0.3
        ? { type: 'Sequence', [list]: Array.from({ length: Math.floor(next() * 4) }, part) }
        : part();
  }
  const flag = () => next() < 0.5;
  if (next() < 0.3) {
    const content = pick(next, ['', 'a', '<x>', ' ', '中', 'a ']);
    const flags = { single_word: flag(), lstrip: flag(), rstrip: flag(), normalized: flag(), special: flag() };
    tokenizer.added_tokens = [{ id: Math.floor(next() * 5), content, ...flags }];
  }
  return tokenizer;
}
