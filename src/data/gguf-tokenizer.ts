// The tokenizer in a GGUF file's metadata, as the tokenizer.json and tokenizer_config.json of Hugging Face.
import type { GgufMetadata } from '../formats/gguf-metadata.js';
import { byteLevelParts } from './gguf-byte-level.js';
import { sentencePieceParts } from './gguf-sentence-piece.js';
import {
  type GgufVocabulary,
  type TokenizerParts,
  tokenizerError,
  tokenTypes,
  vocabularyOf,
} from './gguf-vocabulary.js';

const kinds: Record<string, (vocabulary: GgufVocabulary) => TokenizerParts> = {
  llama: sentencePieceParts,
  gpt2: byteLevelParts,
};

/**
 * The tokenizer that a GGUF file describes: a SentencePiece vocabulary with scores (`llama`) or byte-level BPE (`gpt2`).
 *
 * @returns null where the file has none
 * @throws HadalError HADAL_ERR_FORMAT for another kind, an unknown pre-tokenizer, or a damaged vocabulary
 */
export function tokenizerOfGguf(metadata: GgufMetadata): { json: string; configJson: string } | null {
  const kind = metadata.text('tokenizer.ggml.model');
  if (kind === undefined || kind === 'none') return null;
  const parts = Object.hasOwn(kinds, kind) ? kinds[kind] : undefined;
  if (!parts) throw tokenizerError(metadata, Object.keys(kinds).join(' or '), 'tokenizer.ggml.model', kind);
  const vocabulary = vocabularyOf(metadata);
  return filesOf(vocabulary, parts(vocabulary));
}

function filesOf(vocabulary: GgufVocabulary, parts: TokenizerParts): { json: string; configJson: string } {
  const { metadata, tokens, types, ids } = vocabulary;
  // 2³²−1 is written for none.
  const special = (name: string) => tokens[metadata.integer(`tokenizer.ggml.${name}_token_id`) ?? -1];
  const [bos, eos, pad, unknown] = ['bos', 'eos', 'padding', 'unknown'].map(special);
  const flag = (name: string, otherwise: boolean) => metadata.bool(`tokenizer.ggml.add_${name}_token`) ?? otherwise;
  const [addBos, addEos] = [flag('bos', parts.addBos) && bos !== undefined, flag('eos', false) && eos !== undefined];
  const json = {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: addedTokens(tokens, types),
    normalizer: parts.normalizer,
    pre_tokenizer: parts.preTokenizer,
    post_processor: template(addBos ? bos : undefined, addEos ? eos : undefined, ids),
    decoder: parts.decoder,
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: parts.model.byte_fallback ? (unknown ?? null) : null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      ...parts.model,
      vocab: Object.fromEntries(ids),
    },
  };
  const config = {
    tokenizer_class: 'PreTrainedTokenizerFast',
    bos_token: bos,
    eos_token: eos,
    pad_token: pad,
    unk_token: unknown,
    add_bos_token: addBos,
    add_eos_token: addEos,
    clean_up_tokenization_spaces: false,
    chat_template: metadata.text('tokenizer.chat_template'),
  };
  return { json: JSON.stringify(json), configJson: `${JSON.stringify(config, null, 2)}\n` };
}

/** Tokens that are found whole in a text before it is split: those for control are left out of decoded text. */
function addedTokens(tokens: readonly string[], types: ArrayLike<number>): unknown[] {
  const { unknown, control, userDefined } = tokenTypes;
  return tokens.flatMap((content, id) => {
    const type = types[id] as number;
    if (content === '' || (type !== unknown && type !== control && type !== userDefined)) return [];
    const special = type !== userDefined;
    return [{ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special }];
  });
}

/** Puts bos before a text and eos behind it, where they are wanted; a second text gets the same. */
function template(bos: string | undefined, eos: string | undefined, ids: ReadonlyMap<string, number>): unknown {
  if (bos === undefined && eos === undefined) return null;
  const text = (id: 'A' | 'B', typeId: number) => [
    ...(bos === undefined ? [] : [{ SpecialToken: { id: bos, type_id: typeId } }]),
    { Sequence: { id, type_id: typeId } },
    ...(eos === undefined ? [] : [{ SpecialToken: { id: eos, type_id: typeId } }]),
  ];
  const used = [bos, eos].filter((token) => token !== undefined);
  return {
    type: 'TemplateProcessing',
    single: text('A', 0),
    pair: [...text('A', 0), ...text('B', 1)],
    special_tokens: Object.fromEntries(used.map((id) => [id, { id, ids: [ids.get(id)], tokens: [id] }])),
  };
}
