import { mkdir, mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { TokenShards, TokenShardWriter } from '../../src/formats/token-shards.js';

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'hadal-shards-'));
});
afterEach(() => rm(dir, { recursive: true }));

const documents = [[1, 2, 3], [4], [], [5, 6, 7, 8], [9, 10]].map((ids) => Int32Array.from(ids));

async function write(vocabSize: number): Promise<void> {
  await rm(dir, { recursive: true });
  await mkdir(dir);
  const writer = new TokenShardWriter(dir, { vocabSize, tokenizerHash: 'h', maxShardTokens: 4 });
  for (const ids of documents) await writer.add(ids, 10);
  await writer.finish();
}

describe('token shards', () => {
  it.each([11, 65536, 65537, 129280])('give back the documents, vocabulary of %d', async (vocabSize) => {
    await write(vocabSize);
    using shards = TokenShards.open(dir);
    expect([shards.documents, shards.tokens, shards.textBytes]).toEqual([5, 10, 50]);
    expect([...shards.lengths()]).toEqual([3, 1, 0, 4, 2]);
    for (const [i, ids] of documents.entries()) expect(shards.read(i)).toEqual(ids);
    await shards.verify();
    expect(() => shards.read(5)).toThrow(/a document below 5/);
    shards[Symbol.dispose]();
    expect(() => shards.read(0)).toThrow(/closed/);
  });

  it('refuse an id that the vocabulary does not have', async () => {
    await write(10); // the last document holds id 10
    using shards = TokenShards.open(dir);
    expect(shards.read(0)).toEqual(documents[0]);
    expect(() => shards.read(4)).toThrow(expect.objectContaining({ code: 'HADAL_ERR_FORMAT' }));
  });

  it('notice damage', async () => {
    await write(11);
    await truncate(join(dir, 'tokens-00001.bin'), 3);
    expect(() => TokenShards.open(dir)).toThrow(/ids of uint16 in .*got 3 bytes/);
    await write(11);
    await writeFile(join(dir, 'tokens-00001.bin'), new Uint8Array(8));
    using shards = TokenShards.open(dir);
    await expect(shards.verify()).rejects.toThrow(/another checksum/);
    await writeFile(join(dir, 'tokens-00000.idx'), new Uint8Array(Uint32Array.of(5, 4).buffer));
    expect(() => TokenShards.open(dir)).toThrow(/never fall/);
    await writeFile(join(dir, 'tokens-00000.idx'), new Uint8Array(7));
    expect(() => TokenShards.open(dir)).toThrow(/8 bytes/);
  });

  it('refuse an index that lies', async () => {
    await write(11);
    const path = join(dir, 'index.json');
    const index = JSON.parse(await readFile(path, 'utf8'));
    const shard = index.shards[0];
    const lies = [
      { ...index, version: 2 },
      { ...index, vocabSize: -1 },
      { ...index, dtype: 'uint32' },
      { ...index, shards: [{ ...shard, file: '../tokens-00000.bin' }] },
      { ...index, shards: [{ ...shard, documents: 1e9 }] },
      { ...index, shards: [{ ...shard, tokens: 5 }] },
    ];
    for (const lie of lies) {
      await writeFile(path, JSON.stringify(lie));
      expect(() => TokenShards.open(dir)).toThrow(expect.objectContaining({ code: 'HADAL_ERR_FORMAT' }));
    }
    await rm(path);
    expect(() => TokenShards.open(dir)).toThrow(expect.objectContaining({ code: 'HADAL_ERR_IO' }));
  });
});
