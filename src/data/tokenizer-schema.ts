// What of a tokenizer.json reaches the tokenizers library. It ends the process over some contents that its format allows,
// so everything is checked here first: byte-pair encoding with the components that language models use.
import { z } from 'zod';
import { HadalError } from '../core/errors.js';
import { expectationOf, shown } from '../core/expectation.js';
import { parseJson } from '../core/json.js';
import { patternProblem } from './tokenizer-patterns.js';

const text = z.string().max(1000);
const someText = text.min(1);
const oneCharacter = z.string().refine((value) => [...value].length === 1, 'one character');
const maxId = 2 ** 24;
const id = z.number().int().min(0).max(maxId);
const absent = z.union([z.literal(''), z.null()]).optional();

const regex = z
  .string()
  .max(20_000)
  .superRefine((source, context) => {
    const problem = patternProblem(source);
    if (problem !== null) context.addIssue({ code: 'custom', message: problem });
  });
const pattern = z.union([z.strictObject({ String: someText }), z.strictObject({ Regex: regex })], {
  error: 'a pattern { String } or { Regex }, not empty',
});
const behavior = z.enum(['Removed', 'Isolated', 'MergedWithPrevious', 'MergedWithNext', 'Contiguous']);

const byteLevel = z.looseObject({
  type: z.literal('ByteLevel'),
  add_prefix_space: z.boolean().optional(),
  trim_offsets: z.boolean().optional(),
  use_regex: z.boolean().optional(),
});
const metaspace = z.looseObject({
  type: z.literal('Metaspace'),
  replacement: oneCharacter,
  prepend_scheme: z.enum(['always', 'never', 'first']).optional(),
  add_prefix_space: z.boolean().optional(),
  split: z.boolean().optional(),
});
const replace = z.looseObject({ type: z.literal('Replace'), pattern, content: text });
const plain = <const Names extends readonly [string, ...string[]]>(names: Names) =>
  z.looseObject({ type: z.enum(names) });

const normalizer = z.discriminatedUnion('type', [
  plain(['NFC', 'NFD', 'NFKC', 'NFKD', 'Lowercase', 'StripAccents']),
  z.looseObject({ type: z.literal('Prepend'), prepend: someText }),
  z.looseObject({ type: z.literal('Strip'), strip_left: z.boolean(), strip_right: z.boolean() }),
  replace,
]);
const preTokenizer = z.discriminatedUnion('type', [
  plain(['Whitespace', 'WhitespaceSplit']),
  z.looseObject({ type: z.literal('Digits'), individual_digits: z.boolean() }),
  z.looseObject({ type: z.literal('Punctuation'), behavior: behavior.optional() }),
  z.looseObject({ type: z.literal('Split'), pattern, behavior, invert: z.boolean() }),
  byteLevel,
  metaspace,
]);
const decoder = z.discriminatedUnion('type', [
  plain(['ByteFallback', 'Fuse']),
  // The library looks for what to strip at the end beyond the beginning of a short token.
  z.looseObject({ type: z.literal('Strip'), content: oneCharacter, start: id, stop: z.literal(0) }),
  byteLevel,
  metaspace,
  replace,
]);

const addedToken = z
  .looseObject({
    id,
    content: someText,
    single_word: z.boolean(),
    lstrip: z.boolean(),
    rstrip: z.boolean(),
    normalized: z.boolean(),
    special: z.boolean(),
  })
  // The library loses its place in the text otherwise.
  .refine(({ content, lstrip, rstrip }) => content.trim() === content || !(lstrip || rstrip), {
    error: 'no lstrip or rstrip for a token of spaces',
  });

/**
 * What z.record and z.array check, in a tenth of their time: with hundreds of thousands of entries those take longer than
 * the library does over the whole file.
 */
const manyOf = <T extends object>(
  expected: string,
  isHolder: (value: unknown) => boolean,
  isEntry: (value: unknown) => boolean,
) =>
  z.custom<T>(isHolder, { error: expected, abort: true }).superRefine((holder, context) => {
    for (const key of Object.keys(holder)) {
      if (isEntry(holder[key as keyof T])) continue;
      context.addIssue({ code: 'custom', path: [key], message: expected });
      return;
    }
  });
const isObject = (value: unknown) => typeof value === 'object' && value !== null && !Array.isArray(value);
const isId = (value: unknown) => Number.isInteger(value) && (value as number) >= 0 && (value as number) <= maxId;
const isText = (value: unknown) => typeof value === 'string';
const isMerge = (value: unknown) =>
  isText(value) || (Array.isArray(value) && value.length === 2 && value.every(isText));

const model = z.looseObject({
  type: z.literal('BPE').default('BPE'),
  vocab: manyOf<Record<string, number>>(`words with ids from 0 to ${maxId}`, isObject, isId),
  merges: manyOf<(string | string[])[]>('merges of two texts, as one text or a list', Array.isArray, isMerge),
  unk_token: z.string().nullish(),
  continuing_subword_prefix: absent,
  end_of_word_suffix: absent,
  fuse_unk: z.boolean().optional(),
  byte_fallback: z.boolean().optional(),
  ignore_merges: z.boolean().optional(),
});

/** One component, or a sequence of them: a list under the name that its kind has. */
const kinds = {
  normalizer: { list: 'normalizers', part: normalizer },
  pre_tokenizer: { list: 'pretokenizers', part: preTokenizer },
  decoder: { list: 'decoders', part: decoder },
} as const;

/** A tokenizer.json that the library may be given. */
export interface CheckedTokenizer {
  /** Without truncation, padding, dropout, and without the post-processor, which only places special tokens. */
  readonly json: string;
  /** By word, without those of added tokens. */
  readonly vocab: Readonly<Record<string, number>>;
  /** Tokens that are found whole in a text. */
  readonly addedTokens: readonly string[];
}

/** @throws HadalError HADAL_ERR_FORMAT naming the field that hadal does not take */
export function checkedTokenizer(json: string, what: string): CheckedTokenizer {
  const fields = parseJson(json, { part: 'tokenizer', what });
  const check = <Part extends z.ZodType>(part: Part, value: unknown, path: string): z.output<Part> => {
    const parsed = part.safeParse(value);
    if (parsed.success) return parsed.data;
    const issue = parsed.error.issues[0] as z.core.$ZodIssue;
    const field = [path, ...issue.path.map(String)].filter((key) => key !== '').join('.');
    const got = issue.path.reduce<unknown>(
      (inner, key) => (inner as Record<PropertyKey, unknown> | null)?.[key],
      value,
    );
    throw new HadalError(
      'HADAL_ERR_FORMAT',
      `[tokenizer] expected ${expectationOf(issue)} for ${field} of ${what}, got ${shown(got)}`,
    );
  };
  const top = check(z.looseObject({}), fields, 'the object');
  const component = (name: keyof typeof kinds) => {
    const { list, part } = kinds[name];
    const value = top[name] ?? null;
    const isSequence = (value as { type?: unknown } | null)?.type === 'Sequence';
    const sequence = z.strictObject({ type: z.literal('Sequence'), [list]: z.array<z.ZodType>(part).max(100) });
    return value && check(isSequence ? sequence : part, value, name);
  };
  const components = {
    normalizer: component('normalizer'),
    pre_tokenizer: component('pre_tokenizer'),
    decoder: component('decoder'),
  };
  const addedTokens = check(z.array(addedToken).max(100_000).default([]), top.added_tokens, 'added_tokens');
  // A token of which nothing is left is found everywhere.
  const vanishing = deletesText(components.normalizer) ? addedTokens.find(({ normalized }) => normalized) : undefined;
  if (vanishing) {
    throw new HadalError(
      'HADAL_ERR_FORMAT',
      `[tokenizer] expected added tokens that are not normalized beside a normalizer that deletes text in ${what}, got ${shown(vanishing.content)}`,
    );
  }
  const checkedModel = check(model, top.model, 'model');
  // The library ends the process over one that makes a longer word than any it knows; the others it checks itself.
  const longest = Object.keys(checkedModel.vocab).reduce(
    (most, word) => (isLonger(word, most) ? bytesOf(word) : most),
    0,
  );
  const stray = checkedModel.merges.find((merge) =>
    typeof merge === 'string' ? isLonger(merge, longest + 1) : isLonger(merge.join(''), longest),
  );
  if (stray !== undefined) {
    throw new HadalError(
      'HADAL_ERR_FORMAT',
      `[tokenizer] expected merges to words of at most ${longest} bytes, as in its vocabulary, for model.merges of ${what}, got ${shown(stray)}`,
    );
  }
  return {
    json: JSON.stringify({
      version: '1.0',
      added_tokens: addedTokens,
      ...components,
      model: { ...checkedModel, dropout: null },
    }),
    vocab: checkedModel.vocab,
    addedTokens: addedTokens.map(({ content }) => content),
  };
}

const bytesOf = (word: string): number => Buffer.byteLength(word);

/** In UTF-8, where a code unit takes three bytes at most: most words need not be looked at. */
const isLonger = (word: string, bytes: number): boolean => 3 * word.length > bytes && bytesOf(word) > bytes;

function deletesText(value: unknown): boolean {
  const { type, content, normalizers } = (value ?? {}) as { type?: string; content?: string; normalizers?: unknown[] };
  return normalizers?.some(deletesText) || type === 'Strip' || type === 'StripAccents' || content === '';
}
