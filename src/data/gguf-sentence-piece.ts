// A SentencePiece vocabulary (Llama's, Mistral's) as byte-pair encoding: the scores become the order of merges.
import { type GgufVocabulary, type TokenizerParts, tokenizerError, tokenTypes } from './gguf-vocabulary.js';

const space = '▁';
const mostCharacters = 256; // of a piece; SentencePiece trains up to 16 unless told otherwise

/** Parts of the tokenizer of a file with scores. @throws HadalError HADAL_ERR_FORMAT */
export function sentencePieceParts(vocabulary: GgufVocabulary): TokenizerParts {
  // Before every text that does not follow another, as `add_dummy_prefix` says: a word at the start is like any other.
  const prefixed = vocabulary.metadata.bool('tokenizer.ggml.add_space_prefix') ?? true;
  const escaped = { type: 'Replace', pattern: { String: ' ' }, content: space };
  const unescaped = { type: 'Replace', pattern: { String: space }, content: ' ' };
  const pieces = [unescaped, { type: 'ByteFallback' }, { type: 'Fuse' }];
  return {
    normalizer: prefixed ? { type: 'Sequence', normalizers: [{ type: 'Prepend', prepend: space }, escaped] } : escaped,
    preTokenizer: null,
    decoder: {
      type: 'Sequence',
      decoders: prefixed ? [...pieces, { type: 'Strip', content: ' ', start: 1, stop: 0 }] : pieces,
    },
    model: { merges: mergesByScore(vocabulary), byte_fallback: true, fuse_unk: true, ignore_merges: false },
    addBos: true,
  };
}

/**
 * SentencePiece joins the two neighbours that make the piece of the highest score. So every way to make a piece of two
 * others is a merge, the best pieces' first.
 */
function mergesByScore({ metadata, tokens, types, ids }: GgufVocabulary): [string, string][] {
  const key = 'tokenizer.ggml.scores';
  const scores = metadata.numbers(key);
  if (scores?.length !== tokens.length) throw tokenizerError(metadata, `${tokens.length} scores`, key, scores?.length);
  const isPiece = (token: string) => types[ids.get(token) ?? -1] === tokenTypes.normal;
  const merges: { pair: [string, string]; score: number; left: number }[] = [];
  for (const [id, token] of tokens.entries()) {
    if (types[id] !== tokenTypes.normal) continue;
    const score = scores[id] as number;
    if (Number.isNaN(score)) throw tokenizerError(metadata, 'numbers', key, score);
    const characters = [...token];
    if (characters.length > mostCharacters)
      throw tokenizerError(metadata, `pieces of at most ${mostCharacters} characters`, 'tokenizer.ggml.tokens', token);
    for (let at = 1, left = ''; at < characters.length; at++) {
      left += characters[at - 1];
      const right = token.slice(left.length);
      if (isPiece(left) && isPiece(right)) merges.push({ pair: [left, right], score, left: at });
    }
  }
  // Among the ways to one piece, which hardly ever meet, the longer left part first, as in transformers.
  return merges.sort((a, b) => b.score - a.score || b.left - a.left).map(({ pair }) => pair);
}
