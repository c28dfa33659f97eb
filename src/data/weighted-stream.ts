import { HadalError } from '../core/errors.js';
import { type Batch, emptyBatch } from './batch.js';
import { PackedStream, type PackOptions, shareOfRows, type TokenDocuments } from './packing.js';
import type { SourceShare } from './prepared.js';

/** Rows of packed documents, endless; see {@link PackedStream}. */
export interface RowStream {
  readonly documents: number;
  /** Tokens of all documents. */
  readonly tokensPerEpoch: number;
  pack(token: number, options: PackOptions): Batch;
}

/** The stream that a loader takes: by weight where the sources have weights. */
export function openStream(
  source: TokenDocuments,
  seed: number | undefined,
  shares: readonly SourceShare[] | undefined,
): RowStream {
  if (seed === undefined || !shares?.some(({ weight }) => weight !== undefined)) return new PackedStream(source, seed);
  return new WeightedStream(source, seed, shares);
}

/** Weights become whole numbers of about this sum, so that rows are counted without rounding. */
const weightSum = 2 ** 20;

/**
 * Rows of several sources, each packed for itself and passed over as often as its share asks: of the first n rows, a
 * source of share p has n·p, give or take one a source, spread evenly. Which source row r is of, and which of that
 * source's rows it is, follows from r alone.
 */
class WeightedStream implements RowStream {
  readonly documents: number;
  readonly tokensPerEpoch: number;
  private readonly parts: readonly { stream: PackedStream; weight: number; rest: number }[];

  /** @throws HadalError HADAL_ERR_DATA for a source without a token */
  constructor(source: TokenDocuments, seed: number, shares: readonly SourceShare[]) {
    const total = shares.reduce((sum, { weight = 1 }) => sum + weight, 0);
    const weights = shares.map(({ weight = 1 }) => Math.max(1, Math.round((weight / total) * weightSum)));
    let first = 0;
    this.parts = shares.map(({ documents }, i) => {
      const stream = partStream(source, { first, documents, number: i + 1 }, seed);
      first += documents;
      return { stream, weight: weights[i] as number, rest: weights.slice(i).reduce((sum, weight) => sum + weight, 0) };
    });
    this.documents = source.documents;
    this.tokensPerEpoch = this.parts.reduce((sum, { stream }) => sum + stream.tokensPerEpoch, 0);
  }

  pack(token: number, options: PackOptions): Batch {
    const { seqLen, mtpDepth } = options;
    const { rows, begin, end } = shareOfRows(options);
    const batch = emptyBatch(rows, seqLen, mtpDepth);
    const first = Math.floor(token / seqLen);
    for (let at = begin; at < end; at++) {
      const { stream, row } = this.locate(first + at);
      stream.packRow(batch, at - begin, row, token % seqLen);
    }
    return batch;
  }

  /** Each source takes its share of the rows that those before it leave; the last takes all. */
  private locate(row: number): { stream: PackedStream; row: number } {
    let n = row;
    for (const { stream, weight, rest } of this.parts) {
      const before = Math.floor((n * weight) / rest);
      if (Math.floor(((n + 1) * weight) / rest) > before) return { stream, row: before };
      n -= before;
    }
    throw new RangeError(`row ${row} is of no source`);
  }
}

/** The documents of one source as a stream of their own. */
function partStream(
  source: TokenDocuments,
  { first, documents, number }: { first: number; documents: number; number: number },
  seed: number,
): PackedStream {
  const lengths = source.lengths().subarray(first, first + documents);
  if (!lengths.some((length) => length > 0)) {
    throw new HadalError(
      'HADAL_ERR_DATA',
      `[data] expected text to train on in every source that has a weight, got none in source ${number}; give it more, or leave it out`,
    );
  }
  return new PackedStream({ documents, lengths: () => lengths, read: (i) => source.read(first + i) }, seed);
}
