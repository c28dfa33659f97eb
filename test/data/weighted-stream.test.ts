import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Batch } from '../../src/data/batch.js';
import { DataLoader, type LoaderOptions } from '../../src/data/loader.js';
import { PackedStream, type TokenDocuments } from '../../src/data/packing.js';
import { openStream } from '../../src/data/weighted-stream.js';
import { TokenShardWriter } from '../../src/formats/token-shards.js';

/** Sources of documents whose tokens say where they are of: source · 10⁶ + their number within the source. */
function sourcesOf(lengths: readonly (readonly number[])[]): TokenDocuments {
  const documents = lengths.flatMap((own, source) => {
    let next = 1_000_000 * source;
    return own.map((length) => Int32Array.from({ length }, () => next++));
  });
  return {
    documents: documents.length,
    lengths: () => Uint32Array.from(documents, ({ length }) => length),
    read: (i) => documents[i] as Int32Array,
  };
}

const sourceOf = (token: number): number => Math.floor(token / 1_000_000);
const lengthsOf = fc
  .array(fc.nat(20), { minLength: 1, maxLength: 6 })
  .filter((lengths) => lengths.some((length) => length > 0));
const setting = fc.record({
  sources: fc.array(fc.tuple(lengthsOf, fc.double({ min: 0.01, max: 100, noNaN: true })), {
    minLength: 1,
    maxLength: 5,
  }),
  seqLen: fc.integer({ min: 1, max: 9 }),
  seed: fc.nat(),
});

function streamOf({ sources, seed }: { sources: [number[], number][]; seed: number }) {
  const documents = sourcesOf(sources.map(([lengths]) => lengths));
  return openStream(
    documents,
    seed,
    sources.map(([{ length }, weight]) => ({ documents: length, weight })),
  );
}

describe('weighted sources', () => {
  it('have their share of the rows in every beginning of the stream, to a row a source', () => {
    fc.assert(
      fc.property(setting, fc.integer({ min: 1, max: 300 }), ({ seqLen, ...rest }, rows) => {
        const { tokens } = streamOf(rest).pack(0, { batch: rows, seqLen, mtpDepth: 0 });
        const total = rest.sources.reduce((sum, [, weight]) => sum + weight, 0);
        const counts = rest.sources.map(() => 0);
        for (let row = 0; row < rows; row++) {
          const [first = 0, ...others] = [...tokens.subarray(row * seqLen, (row + 1) * seqLen)].map(sourceOf);
          expect(others.every((other) => other === first)).toBe(true); // a row is of one source
          (counts[first] as number)++;
        }
        for (const [i, [, weight]] of rest.sources.entries()) {
          const expected = (rows * weight) / total;
          expect(Math.abs((counts[i] as number) - expected)).toBeLessThanOrEqual(rest.sources.length);
        }
      }),
    );
  });

  it('give the rows that each would give alone, in the same order', () => {
    fc.assert(
      fc.property(setting, ({ sources, seqLen, seed }) => {
        const { tokens } = streamOf({ sources, seed }).pack(0, { batch: 120, seqLen, mtpDepth: 0 });
        const found = sources.map((): number[][] => []);
        for (let at = 0; at < tokens.length; at += seqLen)
          found[sourceOf(tokens[at] as number)]?.push([...tokens.subarray(at, at + seqLen)]);
        for (const [i, rows] of found.entries()) {
          const alone = sourcesOf(sources.map(([lengths], s) => (s === i ? lengths : [])));
          const batch = new PackedStream(alone, seed).pack(0, { batch: rows.length, seqLen, mtpDepth: 0 });
          expect(rows.flat()).toEqual([...batch.tokens]);
        }
      }),
    );
  });

  it('give the same batch whatever was read before, on any number of ranks', () => {
    fc.assert(
      fc.property(setting, fc.array(fc.nat(2000), { minLength: 1, maxLength: 4 }), ({ seqLen, ...rest }, tokens) => {
        const used = streamOf(rest);
        const shape = { seqLen, mtpDepth: 1 };
        for (const token of tokens) {
          const whole = streamOf(rest).pack(token, { ...shape, batch: 6 });
          const shares = [0, 1, 2].map((rank) => used.pack(token, { ...shape, batch: 6, rank, worldSize: 3 }));
          expect(shares.flatMap((share) => [...share.tokens])).toEqual([...whole.tokens]);
          expect(shares.flatMap((share) => [...share.labels])).toEqual([...whole.labels]);
        }
      }),
    );
  });

  it('without weights change nothing', () => {
    const documents = sourcesOf([
      [5, 9],
      [30, 2, 1],
    ]);
    const shape = { batch: 20, seqLen: 7, mtpDepth: 1 };
    const plain = new PackedStream(documents, 5).pack(0, shape);
    expect(openStream(documents, 5, [{ documents: 2 }, { documents: 3, weight: undefined }]).pack(0, shape)).toEqual(
      plain,
    );
  });

  it('with nothing to train on are refused', () => {
    const shares = [
      { documents: 2, weight: 1 },
      { documents: 1, weight: 5 },
    ];
    expect(() => openStream(sourcesOf([[5, 9], [0]]), 1, shares)).toThrow(/none in source 2/);
  });
});

describe('a loader of weighted sources', () => {
  const dir = mkdtempSync(join(tmpdir(), 'hadal-weighted-'));
  afterAll(() => rmSync(dir, { recursive: true }));
  beforeAll(async () => {
    const writer = new TokenShardWriter(dir, { vocabSize: 1000, tokenizerHash: 'h', maxShardTokens: 100 });
    for (let i = 0; i < 30; i++)
      await writer.add(
        Int32Array.from({ length: 5 + (i % 9) }, (_, t) => 10 * i + t),
        1,
      );
    await writer.finish();
  });
  const sources = [
    { documents: 10, weight: 3 },
    { documents: 20, weight: 1 },
  ];
  const take = async (count: number, options: Partial<LoaderOptions> = {}): Promise<Batch[]> => {
    await using loader = new DataLoader({
      shards: dir,
      batch: 2,
      seqLen: 16,
      seed: 3,
      sources,
      threads: 0,
      ...options,
    });
    const batches: Batch[] = [];
    while (batches.length < count) batches.push(await loader.next());
    return batches;
  };

  it('goes on from any cursor, in any thread, with exactly the batches that would have followed', async () => {
    const all = await take(40);
    for (let i = 0; i < 30; i += 3) {
      const cursor = JSON.parse(JSON.stringify(all[i]?.cursor));
      expect(await take(10, { cursor })).toEqual(all.slice(i + 1, i + 11));
    }
    expect(await take(3, { threads: 1, cursor: all[20]?.cursor })).toEqual(all.slice(21, 24));
  });

  it('refuses a cursor of other weights', async () => {
    const cursor = (await take(1))[0]?.cursor;
    expect(cursor?.weights).toEqual([3, 1]);
    const others = sources.map((source) => ({ ...source, weight: 1 }));
    const message = /weights of the checkpoint \(3, 1\), got 1, 1;/;
    await expect(take(1, { cursor, sources: others })).rejects.toMatchObject({ code: 'HADAL_ERR_CHECKPOINT' });
    await expect(take(1, { cursor, sources: others })).rejects.toThrow(message);
    await expect(take(1, { cursor, sources: undefined })).rejects.toThrow(/\(3, 1\), got none;/);
  });
});
