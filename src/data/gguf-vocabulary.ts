// What both kinds of GGUF tokenizers start from.
import { HadalError } from '../core/errors.js';
import { shown } from '../core/expectation.js';
import type { GgufMetadata } from '../formats/gguf-metadata.js';

/** What `tokenizer.ggml.token_type` says of a token. */
export const tokenTypes = { normal: 1, unknown: 2, control: 3, userDefined: 4 } as const;

/** A vocabulary as the file has it. */
export interface GgufVocabulary {
  readonly metadata: GgufMetadata;
  /** By id; no two are the same. */
  readonly tokens: readonly string[];
  readonly types: ArrayLike<number>;
  readonly ids: ReadonlyMap<string, number>;
}

/** What tokenizers differ in. */
export interface TokenizerParts {
  normalizer: unknown;
  preTokenizer: unknown;
  decoder: unknown;
  /** Of the BPE model, beside vocabulary and unknown token. */
  model: { merges: unknown; byte_fallback: boolean; fuse_unk: boolean; ignore_merges: boolean };
  /** Whether texts begin with bos where the file does not say. */
  addBos: boolean;
}

export function tokenizerError(metadata: GgufMetadata, expected: string, key: string, got: unknown): HadalError {
  return new HadalError(
    'HADAL_ERR_FORMAT',
    `[tokenizer] expected ${expected} as '${key}' in ${metadata.path}, got ${shown(got)}; convert the model to a Hugging Face directory with its own tokenizer.json`,
  );
}

/** @throws HadalError HADAL_ERR_FORMAT for tokens that are missing or there twice */
export function vocabularyOf(metadata: GgufMetadata): GgufVocabulary {
  const tokens = metadata.texts('tokenizer.ggml.tokens');
  if (!tokens) throw tokenizerError(metadata, 'a vocabulary', 'tokenizer.ggml.tokens', undefined);
  const types = metadata.numbers('tokenizer.ggml.token_type') ?? new Uint8Array(tokens.length).fill(tokenTypes.normal);
  if (types.length !== tokens.length)
    throw tokenizerError(metadata, `${tokens.length} types`, 'tokenizer.ggml.token_type', types.length);
  const ids = new Map<string, number>();
  for (const [id, token] of tokens.entries()) {
    if (ids.has(token)) throw tokenizerError(metadata, 'tokens that differ', 'tokenizer.ggml.tokens', token);
    ids.set(token, id);
  }
  return { metadata, tokens, types, ids };
}
