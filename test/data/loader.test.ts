import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Batch } from '../../src/data/batch.js';
import { DataLoader, evalBatches, type LoaderOptions } from '../../src/data/loader.js';
import { TokenShardWriter } from '../../src/formats/token-shards.js';

let shards: string;
beforeAll(async () => {
  shards = await mkdtemp(join(tmpdir(), 'hadal-loader-'));
  const writer = new TokenShardWriter(shards, { vocabSize: 1000, tokenizerHash: 'h', maxShardTokens: 100 });
  for (let i = 0; i < 37; i++)
    await writer.add(
      Int32Array.from({ length: (i * 7) % 23 }, (_, t) => (i * 23 + t) % 1000),
      1,
    );
  await writer.finish();
});
afterAll(() => rm(shards, { recursive: true }));

const take = async (count: number, options: Partial<LoaderOptions> = {}): Promise<Batch[]> => {
  await using loader = new DataLoader({ shards, batch: 2, seqLen: 16, mtpDepth: 1, seed: 3, ...options });
  const batches: Batch[] = [];
  for (let i = 0; i < count; i++) batches.push(await loader.next());
  return batches;
};

describe('DataLoader', () => {
  it('gives the same batches whatever number of threads makes them', async () => {
    const plain = await take(30, { threads: 0 });
    expect(await take(30, { threads: 1 })).toEqual(plain);
    expect(await take(30, { threads: 2, prefetch: 5 })).toEqual(plain);
  });

  it('goes on from any cursor with exactly the batches that would have followed', async () => {
    const all = await take(40, { threads: 0 });
    for (let i = 0; i < 30; i++) {
      const cursor = JSON.parse(JSON.stringify(all[i]?.cursor));
      expect(await take(10, { threads: 0, cursor })).toEqual(all.slice(i + 1, i + 11));
    }
    expect(all.at(-1)?.cursor?.epoch).toBeGreaterThan(1);
    expect(await take(3, { threads: 1, cursor: all[20]?.cursor })).toEqual(all.slice(21, 24));
  });

  it('goes on with another world size and batch size where the cursor stands', async () => {
    const [first, second] = await take(2, { threads: 0, batch: 4 });
    const cursor = first?.cursor;
    const share = (rank: number) => take(1, { threads: 0, batch: 4, rank, worldSize: 2, cursor });
    const shares = await Promise.all([0, 1].map(share));
    expect(shares.flat().flatMap(({ tokens }) => [...tokens])).toEqual([...(second?.tokens ?? [])]);
    expect(shares[0]?.[0]?.cursor).toEqual(second?.cursor);
  });

  it('gives any number of processes together the same rows of every update in the same order', async () => {
    const rowsOf = (batches: readonly Batch[]) =>
      batches.flatMap(({ seqLen, tokens, docIds, labels }) =>
        Array.from({ length: tokens.length / seqLen }, (_, b) => [b * seqLen, (b + 1) * seqLen] as const)
          .filter(([begin]) => docIds[begin] !== -1)
          .map((row) => [tokens, docIds, labels].map((array) => [...array.subarray(...row)])),
      );
    const [updates, microBatches, batch] = [6, 3, 5];
    /** Rows of each update, and where the data goes on after it. */
    const trained = async (worldSize: number) => {
      const options = { threads: 0, batch, worldSize };
      const count = updates * microBatches;
      const shares = await Promise.all(
        Array.from({ length: worldSize }, (_, rank) => take(count, { ...options, rank })),
      );
      return Array.from({ length: updates }, (_, update) => {
        const window = Array.from({ length: microBatches }, (_, i) => update * microBatches + i);
        const rows = window.flatMap((at) => rowsOf(shares.map((share) => share[at] as Batch)));
        return {
          rows,
          cursors: new Set(shares.map((share) => JSON.stringify(share[window.at(-1) as number]?.cursor))),
        };
      });
    };
    const alone = await trained(1);
    expect(alone[0]?.rows).toHaveLength(microBatches * batch);
    for (const worldSize of [2, 3, 4, 5]) expect(await trained(worldSize)).toEqual(alone);
  });

  it('keeps the order when several batches are asked for at once', async () => {
    await using loader = new DataLoader({ shards, batch: 2, seqLen: 16, mtpDepth: 1, seed: 3, threads: 2 });
    const batches = await Promise.all(Array.from({ length: 8 }, () => loader.next()));
    expect(batches).toEqual(await take(8, { threads: 0 }));
    expect(loader.cursor).toEqual(batches.at(-1)?.cursor);
  });

  it('hands arrays over in shared memory', async () => {
    const [batch] = await take(1, { threads: 1 });
    const arrays = [batch?.tokens, batch?.docIds, batch?.positions, batch?.labels, ...(batch?.mtpTokens ?? [])];
    for (const array of arrays) expect(array?.buffer).toBeInstanceOf(SharedArrayBuffer);
  });

  it('refuses a cursor of other data, and sizes that make no sense', async () => {
    const cursor = (await take(1, { threads: 0 }))[0]?.cursor;
    await expect(take(1, { cursor, seed: 4 })).rejects.toMatchObject({ code: 'HADAL_ERR_CHECKPOINT' });
    const other = cursor && { ...cursor, documents: 1 };
    await expect(take(1, { cursor: other })).rejects.toMatchObject({ code: 'HADAL_ERR_CHECKPOINT' });
    for (const wrong of [{ batch: 0 }, { seqLen: 1.5 }, { rank: 1 }, { mtpDepth: -1 }, { worldSize: 3 }]) {
      await expect(take(1, wrong)).rejects.toMatchObject({ code: 'HADAL_ERR_CONFIG' });
    }
  });

  it('brings errors of its worker home with their code', async () => {
    const dir = await mkdtemp(join(tmpdir(), 'hadal-loader-'));
    const writer = new TokenShardWriter(dir, { vocabSize: 5, tokenizerHash: 'h' });
    await writer.add(Int32Array.of(1, 9), 1);
    await writer.finish();
    await expect(take(1, { shards: dir, threads: 1 })).rejects.toMatchObject({
      name: 'HadalError',
      code: 'HADAL_ERR_FORMAT',
    });
    await rm(dir, { recursive: true });
  });
});

describe('evalBatches', () => {
  it('passes once over everything, whatever the ranks', async () => {
    const tokensOf = async (options: { threads: number; rank?: number; worldSize?: number }): Promise<number[]> => {
      const tokens: number[] = [];
      for await (const batch of evalBatches({ shards, batch: 3, seqLen: 16, ...options })) {
        tokens.push(...[...batch.tokens].filter((_, i) => batch.docIds[i] !== -1));
      }
      return tokens.sort((a, b) => a - b);
    };
    const expected = Array.from({ length: 37 }, (_, i) =>
      Array.from({ length: (i * 7) % 23 }, (_, t) => (i * 23 + t) % 1000),
    ).flat();
    expect(await tokensOf({ threads: 1 })).toEqual(expected.sort((a, b) => a - b));
    const shares = await Promise.all([0, 1, 2].map((rank) => tokensOf({ threads: 0, rank, worldSize: 3 })));
    expect(shares.flat().sort((a, b) => a - b)).toEqual(expected);
  });
});
