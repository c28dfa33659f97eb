// Byte-level byte-pair encoding (GPT-2's, Llama 3's, Qwen2's, DeepSeek's): the file names how text is split before it.
import { type GgufVocabulary, type TokenizerParts, tokenizerError } from './gguf-vocabulary.js';

interface Splitting {
  /** Regular expressions, one applied to what the one before left over; null: GPT-2's, which is built in. */
  patterns: readonly string[] | null;
  normalizer?: unknown;
  addBos?: boolean;
  /** Words of the vocabulary are taken whole, whether merges lead there or not. */
  ignoreMerges?: boolean;
}

/** Words with the character before, numbers of up to so many digits, punctuation, runs of white space. */
const words = (digits: string) =>
  `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`;
const cjk = '[一-龥ࠀ-一가-\uD7FF]+'; // Han, kana, Hangul and what lies between them

/** By `tokenizer.ggml.pre`, as the tokenizer.json of these models have it. */
const splittings: Record<string, Splitting> = {
  'gpt-2': { patterns: null },
  'llama-bpe': { patterns: [words('\\p{N}{1,3}')], addBos: true, ignoreMerges: true },
  qwen2: { patterns: [words('\\p{N}')], normalizer: { type: 'NFC' } },
  'deepseek-r1-qwen': { patterns: [words('\\p{N}')] },
  'deepseek-llm': {
    patterns: ['[\\r\\n]', '\\s?[\\p{Lu}\\p{Ll}\\p{Lt}]+', '\\s?[!-/:-~！-／：-～‘-‟　-。]+', '\\s+$', cjk, '\\p{N}'],
  },
  'deepseek-coder': { patterns: ['[\\r\\n]', '\\s?\\p{L}+', '\\s?\\p{P}+', cjk, '\\p{N}'] },
  'deepseek-v3': {
    patterns: [
      '\\p{N}{1,3}',
      '[一-龥぀-ゟ゠-ヿ]+',
      '[!"#$%&\'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+',
    ],
  },
};

/** Other names for the same. Files from before there was a name, and `default`, are split as GPT-2 does. */
const aliases: Record<string, string> = { default: 'gpt-2', llama3: 'llama-bpe', 'llama-v3': 'llama-bpe' };

/** Parts of the tokenizer of a file with merges. @throws HadalError HADAL_ERR_FORMAT */
export function byteLevelParts({ metadata }: GgufVocabulary): TokenizerParts {
  const merges = metadata.texts('tokenizer.ggml.merges');
  if (!merges) throw tokenizerError(metadata, 'merges', 'tokenizer.ggml.merges', undefined);
  const given = metadata.text('tokenizer.ggml.pre') ?? 'default';
  const name = Object.hasOwn(aliases, given) ? (aliases[given] as string) : given;
  const splitting = Object.hasOwn(splittings, name) ? splittings[name] : undefined;
  if (!splitting) {
    const known = [...Object.keys(splittings), ...Object.keys(aliases)].join(', ');
    throw tokenizerError(metadata, `one of ${known}`, 'tokenizer.ggml.pre', given);
  }
  const { patterns, normalizer = null, addBos = false, ignoreMerges = false } = splitting;
  const bytes = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: patterns === null };
  const splits = (patterns ?? []).map((Regex) => ({
    type: 'Split',
    pattern: { Regex },
    behavior: 'Isolated',
    invert: false,
  }));
  return {
    normalizer,
    preTokenizer: { type: 'Sequence', pretokenizers: [...splits, bytes] },
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: { merges, byte_fallback: false, fuse_unk: false, ignore_merges: ignoreMerges },
    addBos,
  };
}
