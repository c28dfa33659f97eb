import { execFileSync } from 'node:child_process';
import { mkdir, mkdtemp, readdir, readFile, rm, symlink, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { TokenShards, TokenShardWriter, tokenShardState } from '../../src/formats/token-shards.js';

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
      { ...index, shards: [{ ...shard, file: '/etc/tokens-00000.bin' }] },
      { ...index, shards: [{ ...shard, file: '..\\tokens-00000.bin' }] },
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

  it.skipIf(process.platform === 'win32')('wait for nothing that is no file', async () => {
    await write(11);
    for (const name of ['tokens-00000.idx', 'tokens-00000.bin', 'index.json']) {
      await rm(join(dir, name));
      execFileSync('mkfifo', [join(dir, name)]);
      expect(() => TokenShards.open(dir)).toThrow(/expected a file in .*got something else/);
    }
  });

  it('are gone on with after the last one that was closed', async () => {
    await write(11);
    const names = await readdir(dir);
    const whole = await Promise.all(names.map((name) => readFile(join(dir, name))));
    for (let written = 0; written <= documents.length; written++) {
      await rm(dir, { recursive: true });
      await mkdir(dir);
      const options = { vocabSize: 11, tokenizerHash: 'h', maxShardTokens: 4 };
      const first = new TokenShardWriter(dir, options);
      for (const ids of documents.slice(0, written)) await first.add(ids, 10);
      await writeFile(join(dir, 'tokens-00009.bin'), 'half a shard');
      const stored = tokenShardState.parse(JSON.parse(JSON.stringify(first.state)));
      const second = await TokenShardWriter.resume(dir, stored, options);
      for (const ids of documents.slice(stored.documents)) await second?.add(ids, 10);
      await second?.finish();
      expect(await readdir(dir)).toEqual(names);
      for (const [i, name] of names.entries()) expect(await readFile(join(dir, name))).toEqual(whole[i]);
    }
  });

  it('are not gone on with where one is not whole, or where a link leads elsewhere', async () => {
    await write(11);
    const options = { vocabSize: 11, tokenizerHash: 'h' };
    const shard = { file: 'tokens-00000.bin', tokens: 4, documents: 2, sha256: '0'.repeat(64) };
    const state = { shards: [shard], documents: 2, tokens: 4, textBytes: 20 };
    const link = `${dir}-link`;
    await symlink(dir, link);
    expect(await TokenShardWriter.resume(link, state, options)).toBeUndefined();
    await rm(link);
    expect((await readdir(dir)).length).toBe(7);
    const longer = { ...state, shards: [{ ...shard, tokens: 5 }] };
    expect(await TokenShardWriter.resume(dir, longer, options)).toBeUndefined();
    expect((await readdir(dir)).length).toBe(7);
    expect(() => tokenShardState.parse({ ...state, shards: [{ ...shard, file: '../x.bin' }] })).toThrow();
  });
});
