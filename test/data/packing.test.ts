import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type Batch, batchFromRows, ignoredLabel } from '../../src/data/batch.js';
import { PackedStream, type TokenDocuments } from '../../src/data/packing.js';

/** Documents whose tokens are all different, so that each can be recognised. */
function source(lengths: readonly number[]): TokenDocuments {
  const starts = lengths.map((_, i) => lengths.slice(0, i).reduce((sum, length) => sum + length, 0));
  return {
    documents: lengths.length,
    lengths: () => Uint32Array.from(lengths),
    read: (i) => Int32Array.from({ length: lengths[i] as number }, (_, t) => (starts[i] as number) + t),
  };
}

const used = (batch: Batch): number[] => [...batch.tokens].filter((_, i) => batch.docIds[i] !== -1);

const setting = fc.record({
  lengths: fc
    .array(fc.nat(20), { minLength: 1, maxLength: 12 })
    .filter((lengths) => lengths.some((length) => length > 0)),
  batch: fc.integer({ min: 1, max: 3 }),
  seqLen: fc.integer({ min: 1, max: 17 }),
  mtpDepth: fc.integer({ min: 0, max: 3 }),
  seed: fc.nat(),
});

describe('PackedStream', () => {
  it('gives every token once before any comes again, and drops none', () => {
    fc.assert(
      fc.property(setting, ({ lengths, seqLen, mtpDepth, seed }) => {
        const stream = new PackedStream(source(lengths), seed);
        const perEpoch = stream.tokensPerEpoch;
        // Rows are shuffled within blocks of about an epoch: whole blocks hold what the stream holds up to there.
        const rows = 3 * Math.max(1, Math.floor(perEpoch / seqLen));
        const counts = new Map<number, number>();
        for (let row = 0; row < rows; row++) {
          for (const t of used(stream.pack(row * seqLen, { batch: 1, seqLen, mtpDepth }))) {
            counts.set(t, (counts.get(t) ?? 0) + 1);
          }
        }
        const epochs = Math.floor((rows * seqLen) / perEpoch);
        const over = Array.from({ length: perEpoch }, (_, t) => (counts.get(t) ?? 0) - epochs);
        expect(over.every((more) => more === 0 || more === 1)).toBe(true);
        expect(over.filter((more) => more === 1).length).toBe((rows * seqLen) % perEpoch);
      }),
    );
  });

  it('takes the rows of a long document in another order than they stand in', () => {
    const stream = new PackedStream(source([400]), 3);
    const rows = stream.pack(0, { batch: 20, seqLen: 20, mtpDepth: 0 });
    const starts = Array.from({ length: 20 }, (_, b) => rows.tokens[20 * b] as number);
    expect(starts).not.toEqual(starts.toSorted((a, b) => a - b));
    expect(starts.toSorted((a, b) => a - b)).toEqual(Array.from({ length: 20 }, (_, i) => 20 * i));
  });

  it('labels with the next tokens of the same document, and nothing across a border', () => {
    fc.assert(
      fc.property(setting, fc.nat(100), ({ lengths, batch: rows, seqLen, mtpDepth, seed }, token) => {
        const documents = source(lengths);
        const documentOf = lengths.flatMap((length, i) => new Array<number>(length).fill(i));
        const batch = new PackedStream(documents, seed).pack(token, { batch: rows, seqLen, mtpDepth });
        // In this source the token n further on in the same document is the number n larger.
        const ahead = (t: number, n: number): number | undefined =>
          documentOf[t + n] === documentOf[t] ? t + n : undefined;
        for (let i = 0; i < batch.tokens.length; i++) {
          const t = batch.tokens[i] as number;
          expect(batch.labels[i]).toBe(ahead(t, 1) ?? ignoredLabel);
          for (let k = 1; k <= mtpDepth; k++) {
            expect(batch.mtpLabels[k - 1]?.[i]).toBe(ahead(t, k + 1) ?? ignoredLabel);
            expect(batch.mtpTokens[k - 1]?.[i]).toBe(ahead(t, k) ?? 0);
          }
          const continues = i % seqLen > 0 && batch.docIds[i] === batch.docIds[i - 1];
          const firstOfRow = i % seqLen === 0;
          expect(batch.positions[i]).toBe(continues ? (batch.positions[i - 1] as number) + 1 : 0);
          expect(batch.docIds[i]).toBe(firstOfRow ? 0 : (batch.docIds[i - 1] as number) + (continues ? 0 : 1));
          if (continues) expect(t).toBe((batch.tokens[i - 1] as number) + 1);
        }
        expect(batch.counts).toEqual(recount(batch));
      }),
    );
  });

  it('shares its rows among ranks so that any number of them sees the same global batch', () => {
    fc.assert(
      fc.property(
        setting,
        fc.integer({ min: 1, max: 9 }),
        fc.integer({ min: 1, max: 4 }),
        fc.nat(200),
        ({ lengths, seqLen, seed }, batch, worldSize, token) => {
          const pack = (rank: number, size: number) => {
            const stream = new PackedStream(source(lengths), seed); // each rank has its own
            return stream.pack(token, { batch, seqLen, mtpDepth: 0, rank, worldSize: size });
          };
          const shares = Array.from({ length: worldSize }, (_, rank) => pack(rank, worldSize));
          const whole = pack(0, 1);
          expect(shares.flatMap(used)).toEqual(used(whole));
          expect(shares.map((share) => share.batch)).toEqual(shares.map(() => Math.ceil(batch / worldSize)));
          expect(shares.map((share) => share.counts)).toEqual(shares.map(recount));
          if (batch >= worldSize) expect(shares.filter((share) => used(share).length === 0)).toEqual([]);
        },
      ),
    );
  });

  it('gives the same batch whatever was read before', () => {
    fc.assert(
      fc.property(
        setting,
        fc.array(fc.nat(300), { minLength: 1, maxLength: 5 }),
        ({ lengths, seed, ...rest }, tokens) => {
          const used = new PackedStream(source(lengths), seed);
          for (const token of tokens) {
            const fresh = new PackedStream(source(lengths), seed);
            expect(used.pack(token, { ...rest })).toEqual(fresh.pack(token, { ...rest }));
          }
        },
      ),
    );
  });

  it('orders each epoch and each seed differently', () => {
    const stream = (seed: number): PackedStream => new PackedStream(source(new Array(20).fill(1)), seed);
    const epoch = (seed: number, number: number): string =>
      stream(seed)
        .pack(number * 20, { batch: 1, seqLen: 20, mtpDepth: 0 })
        .tokens.join();
    expect(new Set([epoch(1, 0), epoch(1, 1), epoch(2, 0), epoch(2 ** 40 + 1, 0)]).size).toBe(4);
  });

  it('keeps the order without a seed and pads the end', () => {
    const stream = new PackedStream(source([3, 0, 2]), undefined);
    const batch = stream.pack(0, { batch: 2, seqLen: 4, mtpDepth: 1 });
    expect([...batch.tokens]).toEqual([0, 1, 2, 3, 4, 0, 0, 0]);
    expect([...batch.docIds]).toEqual([0, 0, 0, 1, 0, -1, -1, -1]);
    expect([...batch.positions]).toEqual([0, 1, 2, 0, 0, 0, 0, 0]);
    expect([...batch.labels]).toEqual([1, 2, -100, 4, -100, -100, -100, -100]);
    expect([...(batch.mtpLabels[0] as Int32Array)]).toEqual([2, -100, -100, -100, -100, -100, -100, -100]);
    expect(batch.counts).toEqual({ tokens: 5, labels: 3, mtpLabels: [1], sequences: 3 });
  });

  it('refuses data without a token', () => {
    expect(() => new PackedStream(source([0, 0]), 1)).toThrow(expect.objectContaining({ code: 'HADAL_ERR_DATA' }));
  });
});

function recount(batch: Batch): Batch['counts'] {
  const valid = (labels: Int32Array): number => labels.filter((label) => label !== ignoredLabel).length;
  return {
    tokens: batch.docIds.filter((id) => id >= 0).length,
    labels: valid(batch.labels),
    mtpLabels: batch.mtpLabels.map(valid),
    sequences: [...batch.docIds].filter((id, i) => id >= 0 && batch.positions[i] === 0).length,
  };
}

describe('batchFromRows', () => {
  it('pads rows of different lengths', () => {
    const batch = batchFromRows([[5, 6, 7], [8]], { seqLen: 4, mtpDepth: 1 });
    expect([...batch.tokens]).toEqual([5, 6, 7, 0, 8, 0, 0, 0]);
    expect([...batch.docIds]).toEqual([0, 0, 0, -1, 0, -1, -1, -1]);
    expect([...batch.labels]).toEqual([6, 7, -100, -100, -100, -100, -100, -100]);
    expect([...(batch.mtpLabels[0] as Int32Array)]).toEqual([7, -100, -100, -100, -100, -100, -100, -100]);
    expect(batch.counts).toEqual({ tokens: 4, labels: 2, mtpLabels: [1], sequences: 2 });
  });

  it('shifts labels as transformers does', () => {
    const batch = batchFromRows([[5, 6, 7]], { labels: [[-100, -100, 9]] });
    expect([...batch.labels]).toEqual([-100, 9, -100]);
    expect(batch.counts.labels).toBe(1);
  });

  it('refuses rows that do not fit', () => {
    expect(() => batchFromRows([[1, 2]], { seqLen: 1 })).toThrow(/at most 1/);
    expect(() => batchFromRows([[1, 2]], { labels: [[1]] })).toThrow(/2 labels in row 0/);
    expect(() => batchFromRows([[1, 2]], { labels: [] })).toThrow(/1 rows of labels/);
  });
});
