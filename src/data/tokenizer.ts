import { createHash } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { Tokenizer as Library } from 'tokenizers';
import { z } from 'zod';
import { HadalError } from '../core/errors.js';
import { parseJson } from '../core/json.js';
import { fileError, withFileErrors } from '../formats/file-error.js';
import { checkedTokenizer } from './tokenizer-schema.js';

/** Text to token ids and back, through Hugging Face's own tokenizers library. Safe to share; holds no open files. */
export interface Tokenizer {
  /** One more than the largest id. */
  readonly vocabSize: number;
  readonly bosId: number | undefined;
  readonly eosId: number | undefined;
  readonly padId: number | undefined;
  /** Whether bos belongs before a text that begins; only a tokenizer_config.json says that it does not. */
  readonly addsBos: boolean;
  /** SHA-256 of tokenizer.json, hexadecimal. */
  readonly hash: string;
  /** The text of tokenizer.json and tokenizer_config.json, to be stored beside a model. */
  readonly files: { readonly json: string; readonly configJson: string | undefined };
  /**
   * Ids of a text, without bos or eos. Special tokens that the text spells out become their ids.
   *
   * @throws HadalError HADAL_ERR_FORMAT for a tokenizer that lacks characters of the text and the word for unknown ones
   */
  encode(text: string): Promise<Int32Array>;
  encodeBatch(texts: readonly string[]): Promise<Int32Array[]>;
  /** Bytes that are no whole UTF-8 become U+FFFD. @param options.skipSpecialTokens - true unless given */
  decode(ids: ArrayLike<number>, options?: { skipSpecialTokens?: boolean }): Promise<string>;
  /** Decodes ids one by one as they are generated. @param options.after - what they follow, whose text is not given out */
  decodeStream(options?: { skipSpecialTokens?: boolean; after?: readonly number[] }): DecodeStream;
  idOf(token: string): number | undefined;
}

/** Text as it grows: a character whose bytes are not all there yet is held back. */
export interface DecodeStream {
  /** New text that `id` completes, often a word, sometimes nothing. */
  push(id: number): Promise<string>;
  /** What is still held back, with U+FFFD for what never was completed. */
  flush(): Promise<string>;
}

/**
 * Loads a tokenizer from a directory with tokenizer.json (and tokenizer_config.json, chat_template.jinja), or from that
 * file itself.
 *
 * @throws HadalError HADAL_ERR_IO when it cannot be read, HADAL_ERR_FORMAT when it is no tokenizer
 */
export async function loadTokenizer(path: string): Promise<Tokenizer> {
  const info = await withFileErrors(`read ${path}`, () => stat(path));
  const file = info.isDirectory() ? join(path, 'tokenizer.json') : path;
  const json = await withFileErrors(`read ${file}`, () => readFile(file, 'utf8'));
  const configJson = await readIfThere(join(dirname(file), 'tokenizer_config.json'));
  const template = await readIfThere(join(dirname(file), 'chat_template.jinja'));
  return createTokenizer(json, template === undefined ? configJson : withTemplate(configJson, template, file), file);
}

function readIfThere(path: string): Promise<string | undefined> {
  return readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT') throw fileError(error, `read ${path}`);
    return undefined;
  });
}

/** A chat template's own file comes before the one in tokenizer_config.json, where it goes when a model is saved. */
function withTemplate(configJson = '{}', template: string, file: string): string {
  const config = parseJson(configJson, { part: 'tokenizer', what: `tokenizer_config.json beside ${file}` });
  return `${JSON.stringify({ ...(config as object), chat_template: template }, null, 2)}\n`;
}

/**
 * Makes a tokenizer from the contents of its files.
 *
 * @param what - names the source in error messages
 * @throws HadalError HADAL_ERR_FORMAT
 */
export function createTokenizer(json: string, configJson?: string, what = 'tokenizer.json'): Tokenizer {
  return new LibraryTokenizer(json, configJson, what);
}

const specialToken = z
  .union([z.string(), z.object({ content: z.string() }).transform(({ content }) => content)])
  .nullish();
const configSchema = z.object({
  bos_token: specialToken,
  eos_token: specialToken,
  pad_token: specialToken,
  add_bos_token: z.boolean().nullish(),
});

/** Added tokens that stand for bos, eos and pad when tokenizer_config.json is missing or silent. */
const usualNames = {
  bos: ['<|begin_of_sentence|>', '<｜begin▁of▁sentence｜>', '<|begin_of_text|>', '<s>', '<|endoftext|>'],
  eos: ['<|end_of_sentence|>', '<｜end▁of▁sentence｜>', '<|end_of_text|>', '</s>', '<|endoftext|>'],
  pad: ['<|pad|>', '<｜▁pad▁｜>', '<pad>'],
};

class LibraryTokenizer implements Tokenizer {
  readonly vocabSize: number;
  readonly bosId: number | undefined;
  readonly eosId: number | undefined;
  readonly padId: number | undefined;
  readonly addsBos: boolean;
  readonly hash: string;
  readonly files: { readonly json: string; readonly configJson: string | undefined };
  private readonly library: Library;

  constructor(json: string, configJson: string | undefined, what: string) {
    const checked = checkedTokenizer(json, what);
    try {
      this.library = Library.fromString(checked.json);
    } catch (error) {
      const found = (error as Error).message.slice(0, 200);
      throw new HadalError('HADAL_ERR_FORMAT', `[tokenizer] expected a tokenizer.json in ${what}, got ${found}`, {
        cause: error,
      });
    }
    this.library.disablePadding();
    this.library.disableTruncation();
    this.files = { json, configJson };
    this.hash = createHash('sha256').update(json).digest('hex');
    // The library gives added tokens ids of its own where the file's are taken.
    const added = new Map(checked.addedTokens.map((token) => [token, this.idOf(token)]));
    this.vocabSize = largest([...Object.values(checked.vocab), ...added.values()]) + 1;
    const config = parseConfig(configJson, what);
    this.addsBos = config.add_bos_token ?? true;
    const find = (named: string | null | undefined, usual: readonly string[]): number | undefined =>
      named === undefined
        ? usual.map((token) => added.get(token)).find((id) => id !== undefined)
        : this.idOf(named ?? '');
    this.bosId = find(config.bos_token, usualNames.bos);
    this.eosId = find(config.eos_token, usualNames.eos);
    this.padId = find(config.pad_token, usualNames.pad);
  }

  async encode(text: string): Promise<Int32Array> {
    const [ids] = await this.encodeBatch([text]);
    return ids as Int32Array;
  }

  async encodeBatch(texts: readonly string[]): Promise<Int32Array[]> {
    const encodings = await this.library.encodeBatch([...texts], { addSpecialTokens: false }).catch((error: Error) => {
      const expected = '[tokenizer] expected words for every character of the text';
      throw new HadalError('HADAL_ERR_FORMAT', `${expected}, got ${error.message}`, { cause: error });
    });
    return encodings.map((encoding) => Int32Array.from(encoding.getIds()));
  }

  async decode(ids: ArrayLike<number>, options: { skipSpecialTokens?: boolean } = {}): Promise<string> {
    return this.library.decode(Array.from(ids), options.skipSpecialTokens ?? true);
  }

  decodeStream(options: { skipSpecialTokens?: boolean; after?: readonly number[] } = {}): DecodeStream {
    return new WindowedDecodeStream((ids) => this.decode(ids, options), options.after ?? []);
  }

  idOf(token: string): number | undefined {
    return this.library.tokenToId(token) ?? undefined;
  }
}

const largest = (ids: readonly (number | undefined)[]): number =>
  ids.reduce<number>((most, id) => Math.max(most, id ?? -1), -1);

function parseConfig(configJson: string | undefined, what: string): Partial<z.infer<typeof configSchema>> {
  if (configJson === undefined) return {};
  const where = `tokenizer_config.json beside ${what}`;
  const parsed = configSchema.safeParse(parseJson(configJson, { part: 'tokenizer', what: where }));
  if (parsed.success) return parsed.data;
  throw new HadalError(
    'HADAL_ERR_FORMAT',
    `[tokenizer] expected token names in ${where}, got ${z.prettifyError(parsed.error)}`,
  );
}

/**
 * Decodes a short window again at every id and gives out what is new, because a decoder may treat the first token of
 * a text differently. The window moves on whenever its text is whole. After `DecodeStream` of the Rust library.
 */
class WindowedDecodeStream implements DecodeStream {
  private window: number[] = [];
  /** Ids at the window's start whose text has been given out, and that text. */
  private known = { ids: 0, text: '' };

  constructor(
    private readonly decode: (ids: readonly number[]) => Promise<string>,
    private after: readonly number[],
  ) {}

  async push(id: number): Promise<string> {
    if (this.after.length > 0) await this.#begin();
    this.window.push(id);
    const text = await this.decode(this.window);
    if (text.endsWith('\ufffd')) return '';
    const fresh = text.slice(this.known.text.length);
    this.window = this.window.slice(this.known.ids);
    this.known = { ids: this.window.length, text: await this.decode(this.window) };
    return fresh;
  }

  /** Begins with what comes before, unless it ends within a character. */
  async #begin(): Promise<void> {
    const ids = this.after;
    this.after = [];
    const text = await this.decode(ids);
    if (text.endsWith('\ufffd')) return;
    this.window = [...ids];
    this.known = { ids: ids.length, text };
  }

  async flush(): Promise<string> {
    const text = await this.decode(this.window);
    const fresh = text.slice(this.known.text.length);
    this.window = [];
    this.known = { ids: 0, text: '' };
    return fresh;
  }
}
