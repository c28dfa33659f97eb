import { HadalError } from '../core/errors.js';
import { type Batch, emptyBatch, placeDocument } from './batch.js';
import { shuffledOrder } from './shuffle.js';

/** Documents of token ids that can be read by number. */
export interface TokenDocuments {
  readonly documents: number;
  /** Lengths in tokens. */
  lengths(): Uint32Array;
  read(document: number): Int32Array;
}

/** Shape of the batches, and this process's share of them. */
export interface PackOptions {
  /** Rows a batch, those of all processes together. */
  readonly batch: number;
  /** Tokens a row. */
  readonly seqLen: number;
  readonly mtpDepth: number;
  /** This process among `worldSize`; 0 of 1 unless given. */
  readonly rank?: number;
  readonly worldSize?: number;
}

/** A process's rows of a batch. */
export interface RowShare {
  /** Rows that are made, the same number in every process; what is over is padding. */
  readonly rows: number;
  /** The rows of the whole batch that are its own. */
  readonly begin: number;
  readonly end: number;
}

/** Divides the rows of a batch among processes: consecutive rows to each, as equal in number as can be. */
export function shareOfRows({ batch, rank = 0, worldSize = 1 }: Omit<PackOptions, 'seqLen' | 'mtpDepth'>): RowShare {
  const borderOf = (process: number) => Math.floor((batch * process) / worldSize);
  return { rows: Math.ceil(batch / worldSize), begin: borderOf(rank), end: borderOf(rank + 1) };
}

/** Tells the order of rows from that of documents. */
const rowOrderSeed = 1;

interface Epoch {
  readonly number: number;
  readonly order: Uint32Array;
  /** First token of each document in `order`, counted within the epoch. */
  readonly starts: Float64Array;
}

/** An order of the rows of about one epoch, so that neighbours in a batch come from different documents. */
interface RowOrder {
  readonly block: number;
  readonly order: Uint32Array;
}

/**
 * Documents one after another in a seeded order, epoch after epoch, as one endless stream of tokens, cut into rows of
 * equal length, which are taken in a seeded order within blocks of about an epoch: a batch of consecutive rows would
 * be a piece of one long document. Row r is the same whatever was read before it, by whichever process; see
 * {@link shareOfRows}. Nothing is dropped; a row may hold the end of one epoch and the start of the
 * next.
 */
export class PackedStream {
  readonly tokensPerEpoch: number;
  private readonly lengths: Uint32Array;
  private epoch: Epoch | undefined;
  private rowOrder: RowOrder | undefined;
  /** The document read last: a long one is asked for row after row. */
  private last: { document: number; ids: Int32Array } | undefined;

  /**
   * @param seed - undefined keeps the documents' order and ends after one epoch
   * @throws HadalError HADAL_ERR_DATA when there is no token
   */
  constructor(
    private readonly source: TokenDocuments,
    private readonly seed: number | undefined,
  ) {
    this.lengths = source.lengths();
    this.tokensPerEpoch = this.lengths.reduce((sum, length) => sum + length, 0);
    if (this.tokensPerEpoch === 0)
      throw new HadalError('HADAL_ERR_DATA', '[data] expected tokens, got none; give more text');
  }

  get documents(): number {
    return this.source.documents;
  }

  /** This process's share of the batch that starts at `token` of the stream. */
  pack(token: number, options: PackOptions): Batch {
    const { seqLen, mtpDepth } = options;
    const { rows, begin, end } = shareOfRows(options);
    const batch = emptyBatch(rows, seqLen, mtpDepth);
    const first = Math.floor(token / seqLen);
    for (let row = begin; row < end; row++) this.packRow(batch, row - begin, first + row, token % seqLen);
    return batch;
  }

  /** Fills row `b` of a batch with the row that comes as number `row`; rows begin `offset` tokens later than usual. */
  packRow(batch: Batch, b: number, row: number, offset: number): void {
    this.fillRow(batch, b, this.rowAt(row, batch.seqLen) * batch.seqLen + offset);
  }

  /** Which row of the stream comes as number `row`. */
  private rowAt(row: number, seqLen: number): number {
    if (this.seed === undefined) return row;
    const size = Math.max(1, Math.floor(this.tokensPerEpoch / seqLen));
    const block = Math.floor(row / size);
    if (this.rowOrder?.block !== block || this.rowOrder.order.length !== size) {
      this.rowOrder = { block, order: shuffledOrder(size, this.seed, block, rowOrderSeed) };
    }
    return block * size + (this.rowOrder.order[row - block * size] as number);
  }

  private fillRow(batch: Batch, b: number, token: number): void {
    let filled = 0;
    for (let docId = 0; filled < batch.seqLen; docId++) {
      const part = this.locate(token + filled);
      if (part === undefined) return;
      const ids = this.read(part.document);
      const count = Math.min(ids.length - part.begin, batch.seqLen - filled);
      placeDocument(batch, { at: b * batch.seqLen + filled, docId, count }, ids, part.begin);
      filled += count;
    }
  }

  private locate(token: number): { document: number; begin: number } | undefined {
    const number = Math.floor(token / this.tokensPerEpoch);
    if (number > 0 && this.seed === undefined) return undefined;
    if (this.epoch?.number !== number) this.epoch = this.makeEpoch(number);
    const { order, starts } = this.epoch;
    const within = token - number * this.tokensPerEpoch;
    // The last document that starts at or before `within`; empty ones before it start at the same token.
    let low = 0;
    let high = starts.length - 1;
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      if ((starts[middle] as number) <= within) low = middle;
      else high = middle - 1;
    }
    return { document: order[low] as number, begin: within - (starts[low] as number) };
  }

  private makeEpoch(number: number): Epoch {
    const { documents } = this.source;
    const order =
      this.seed === undefined
        ? Uint32Array.from({ length: documents }, (_, i) => i)
        : shuffledOrder(documents, this.seed, number);
    const starts = new Float64Array(documents);
    for (let i = 1; i < documents; i++) {
      starts[i] = (starts[i - 1] as number) + (this.lengths[order[i - 1] as number] as number);
    }
    return { number, order, starts };
  }

  private read(document: number): Int32Array {
    if (this.last?.document !== document) this.last = { document, ids: this.source.read(document) };
    return this.last.ids;
  }
}
