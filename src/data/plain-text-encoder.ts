import { HadalError } from '../core/errors.js';
import { createTokenizer, type Tokenizer } from './tokenizer.js';

interface TokenizerJson {
  added_tokens?: { content: string; special: boolean }[];
  model: { vocab?: Record<string, number> | [string, number][]; unk_token?: string | null };
}

/**
 * Encodes texts in which names of special tokens, as `<|endoftext|>`, are nothing but text. The library offers no switch
 * for it: texts that hold such a name go to a second tokenizer, in which the special tokens are called otherwise.
 */
export class PlainTextEncoder {
  private readonly names: RegExp | undefined;
  private plain: Tokenizer | undefined;

  constructor(private readonly tokenizer: Tokenizer) {
    const names = specialNames(JSON.parse(tokenizer.files.json) as TokenizerJson);
    // `RegExp.escape` is of newer Node.
    const escaped = names.map((name) => name.replaceAll(/[\\^$.*+?()[\]{}|/-]/g, '\\$&'));
    if (escaped.length > 0) this.names = new RegExp(escaped.join('|'), 'u');
  }

  /** Ids of each text, without bos or eos. @throws HadalError HADAL_ERR_CONFIG */
  encodeBatch(texts: readonly string[]): Promise<Int32Array[]> {
    if (!texts.some((text) => this.names?.test(text))) return this.tokenizer.encodeBatch(texts);
    // A text without such a name is the same to both.
    this.plain ??= this.renamed();
    return this.plain.encodeBatch(texts);
  }

  private renamed(): Tokenizer {
    const json = JSON.parse(this.tokenizer.files.json) as TokenizerJson;
    const names = new Map(specialNames(json).map((name, i) => [name, `\u{10fffe}${this.tokenizer.hash}-${i}`]));
    const rename = (name: string): string => names.get(name) ?? name;
    const { model } = json;
    for (const token of json.added_tokens ?? []) token.content = rename(token.content);
    if (Array.isArray(model.vocab))
      model.vocab = model.vocab.map(([name, score]): [string, number] => [rename(name), score]);
    else model.vocab = Object.fromEntries(Object.entries(model.vocab ?? {}).map(([name, id]) => [rename(name), id]));
    if (model.unk_token != null) model.unk_token = rename(model.unk_token);
    try {
      return createTokenizer(JSON.stringify(json));
    } catch (error) {
      const message =
        '[data] expected a tokenizer whose special tokens are apart from its other ones, got one in which they are not; set data.specialTokensAsText to false';
      throw new HadalError('HADAL_ERR_CONFIG', message, { cause: error });
    }
  }
}

function specialNames({ added_tokens = [] }: TokenizerJson): string[] {
  return added_tokens.filter(({ content, special }) => special && content !== '').map(({ content }) => content);
}
