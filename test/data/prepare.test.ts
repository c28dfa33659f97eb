import { mkdtemp, readdir, readFile, rm, truncate, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type MadeData, type PrepareDataOptions, prepareData } from '../../src/data/prepare.js';
import { isPrepared } from '../../src/data/prepared.js';
import { createTokenizer, type Tokenizer } from '../../src/data/tokenizer.js';
import { trainTokenizer } from '../../src/data/train-tokenizer.js';
import { TokenShards } from '../../src/formats/token-shards.js';

let dir: string;
let source: string;
let tokenizer: Tokenizer;
const texts = Array.from({ length: 45 }, (_, i) => `Document ${i} is ${'very '.repeat(i)}long, 长 🐙.`);
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'hadal-prepare-'));
  source = join(dir, 'a.jsonl');
  await writeFile(source, texts.map((text) => JSON.stringify({ text })).join('\n'));
  const { json, configJson } = await trainTokenizer({ sources: [source], vocabSize: 300 });
  tokenizer = createTokenizer(json, configJson);
});
afterAll(() => rm(dir, { recursive: true }));

const prepare = (cache: string, options: Partial<PrepareDataOptions> = {}): Promise<MadeData> =>
  prepareData({ sources: [source], tokenizer, cacheDir: join(dir, cache), ...options });

async function documentsOf(part: { dir: string } | undefined): Promise<string[]> {
  if (part === undefined) return [];
  using shards = TokenShards.open(part.dir);
  const all = Array.from({ length: shards.documents }, (_, i) => shards.read(i));
  return Promise.all(all.map((ids) => tokenizer.decode(ids, { skipSpecialTokens: false })));
}

describe('prepareData', () => {
  it('tokenizes all documents in order, parted, between bos and eos', async () => {
    const prepared = await prepare('order');
    const whole = texts.map((text) => `<|begin_of_sentence|>${text}<|end_of_sentence|>`);
    expect(await documentsOf(prepared.train)).toEqual(whole.filter((_, i) => i % 20 !== 1));
    expect(await documentsOf(prepared.heldOut)).toEqual(whole.filter((_, i) => i % 20 === 1));
    const textBytes = prepared.train.textBytes + (prepared.heldOut?.textBytes ?? 0);
    expect(textBytes).toBe(Buffer.byteLength(texts.join('')));
    expect(prepared.reused).toBe(false);
  });

  it('makes the same files whatever the number of threads', async () => {
    const sources = [source, 'synthetic'];
    const [one, two] = [await prepare('one', { threads: 1, sources }), await prepare('two', { threads: 2, sources })];
    for (const name of ['index.json', 'tokens-00000.bin', 'tokens-00000.idx']) {
      expect(await readFile(join(two.train.dir, name))).toEqual(await readFile(join(one.train.dir, name)));
    }
  });

  it('takes an earlier preparation of the same, and only of the same', async () => {
    const first = await prepare('reuse');
    expect(await prepare('reuse')).toEqual({ ...first, reused: true });
    for (const other of [{ heldOut: 0.1 }, { addBos: false }, { addEos: false }, { textField: 'text', heldOut: 0 }]) {
      expect((await prepare('reuse', other)).reused).toBe(false);
    }
    await utimes(source, new Date(), new Date(0));
    expect((await prepare('reuse')).reused).toBe(false);
    expect((await prepare('reuse', { heldOut: 0 })).heldOut).toBeUndefined();
  });

  it('prepares anew what is damaged', async () => {
    const first = await prepare('damaged');
    await truncate(join(first.train.dir, 'tokens-00000.bin'), 3);
    const second = await prepare('damaged');
    expect(second.reused).toBe(false);
    expect(await documentsOf(second.train)).toHaveLength(42);
  });

  it('leaves nothing of a bad line, and nothing that is taken for whole when interrupted', async () => {
    const bad = join(dir, 'bad.jsonl');
    await writeFile(bad, '{"text":"x"}\n{"text":');
    await expect(prepare('stopped', { sources: [bad] })).rejects.toMatchObject({ code: 'HADAL_ERR_DATA' });
    expect(await readdir(join(dir, 'stopped'))).toEqual([]);
    const controller = new AbortController();
    const onProgress = (): void => controller.abort();
    const stopped = prepare('stopped', { sources: ['sotu'], signal: controller.signal, onProgress });
    await expect(stopped).rejects.toMatchObject({ code: 'HADAL_ERR_ABORTED' });
    const [left = ''] = await readdir(join(dir, 'stopped'));
    expect(isPrepared(join(dir, 'stopped', left))).toBe(false);
  });

  it('refuses a share that cannot be held out', async () => {
    await expect(prepare('share', { heldOut: 0.9 })).rejects.toMatchObject({ code: 'HADAL_ERR_CONFIG' });
  });

  it('waits for another that is at the same work, and takes its result', async () => {
    const [one, two] = await Promise.all([prepare('both'), prepare('both')]);
    expect([one.reused, two.reused].sort()).toEqual([false, true]);
    expect(two.train).toEqual(one.train);
  });
});
