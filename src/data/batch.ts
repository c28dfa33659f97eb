import { HadalError } from '../core/errors.js';

// B rows a batch, T tokens a row

/** Where a loader stands: the first token of the next global batch, counted from the start of epoch 0. JSON-serialisable. */
export interface DataCursor {
  readonly version: 1;
  readonly token: number;
  /** Whole passes over the data behind `token`. */
  readonly epoch: number;
  readonly seed: number;
  /** What the data was, so that other data is not taken for it. */
  readonly documents: number;
  readonly tokensPerEpoch: number;
  /** Weights of the sources, where they have some. */
  readonly weights?: readonly number[];
}

/** Rows of packed documents. All arrays are [B, T], row-major, views of one SharedArrayBuffer. */
export interface Batch {
  readonly batch: number;
  readonly seqLen: number;
  readonly tokens: Int32Array;
  /** Number of the document within its row, from 0; −1 is padding. */
  readonly docIds: Int32Array;
  /** Position within the part of the document that lies in this row, from 0. */
  readonly positions: Int32Array;
  /** The next token of the same document, else −100. */
  readonly labels: Int32Array;
  /** For MTP depth k = 1, 2, …: the token k further on; 0 where that is another document's. */
  readonly mtpTokens: readonly Int32Array[];
  /** For MTP depth k = 1, 2, …: the token k + 1 further on in the same document, else −100. */
  readonly mtpLabels: readonly Int32Array[];
  readonly counts: BatchCounts;
  /** Where to go on after this batch; absent for batches that are not of a loader's stream. */
  readonly cursor?: DataCursor;
}

/** Denominators of the losses, known before anything runs. */
export interface BatchCounts {
  /** Positions that are not padding. */
  tokens: number;
  /** Labels that are not −100. */
  labels: number;
  /** The same for each MTP depth. */
  mtpLabels: number[];
  /** Parts of documents, each one sequence to attention and to the balance loss. */
  sequences: number;
}

/** A label that no loss counts. */
export const ignoredLabel = -100;

/** An all-padding batch to be filled. */
export function emptyBatch(batch: number, seqLen: number, mtpDepth: number): Batch {
  const size = batch * seqLen;
  const buffer = new SharedArrayBuffer(size * (4 + 2 * mtpDepth) * Int32Array.BYTES_PER_ELEMENT);
  let used = 0;
  const next = (value: number): Int32Array => new Int32Array(buffer, 4 * size * used++, size).fill(value);
  return {
    batch,
    seqLen,
    tokens: next(0),
    docIds: next(-1),
    positions: next(0),
    labels: next(ignoredLabel),
    mtpTokens: Array.from({ length: mtpDepth }, () => next(0)),
    mtpLabels: Array.from({ length: mtpDepth }, () => next(ignoredLabel)),
    counts: { tokens: 0, labels: 0, mtpLabels: new Array<number>(mtpDepth).fill(0), sequences: 0 },
  };
}

/**
 * Puts a part of a document into a row and counts it.
 *
 * @param target - `at`: first position [0, B·T) to fill; `docId`: the part's number within its row
 * @param ids - the whole document: labels look beyond the part
 * @param labels - what to predict at each position of `ids`, unshifted; `ids` itself unless given
 */
export function placeDocument(
  batch: Batch,
  target: { at: number; docId: number; count: number },
  ids: Int32Array,
  begin: number,
  labels: Int32Array = ids,
): void {
  const { at, docId, count } = target;
  const { counts } = batch;
  for (let i = 0; i < count; i++) {
    batch.tokens[at + i] = ids[begin + i] as number;
    batch.docIds[at + i] = docId;
    batch.positions[at + i] = i;
    const label = labels[begin + i + 1] ?? ignoredLabel;
    batch.labels[at + i] = label;
    if (label !== ignoredLabel) counts.labels++;
    for (let k = 1; k <= batch.mtpTokens.length; k++) {
      (batch.mtpTokens[k - 1] as Int32Array)[at + i] = ids[begin + i + k] ?? 0;
      const mtpLabel = labels[begin + i + k + 1] ?? ignoredLabel;
      (batch.mtpLabels[k - 1] as Int32Array)[at + i] = mtpLabel;
      if (mtpLabel !== ignoredLabel) (counts.mtpLabels[k - 1] as number)++;
    }
  }
  counts.tokens += count;
  counts.sequences++;
}

/**
 * A batch of rows that are one document each, padded at the end.
 *
 * @param ids - rows of token ids, any lengths up to `seqLen`
 * @param options.seqLen - the longest row's length unless given
 * @param options.labels - rows like `ids`, unshifted as in `transformers` (position i is predicted from those before
 * it), −100 ignored; `ids` unless given
 * @throws HadalError HADAL_ERR_SHAPE
 */
export function batchFromRows(
  ids: readonly (readonly number[])[],
  options: { seqLen?: number; mtpDepth?: number; labels?: readonly (readonly number[])[] } = {},
): Batch {
  const longest = Math.max(1, ...ids.map((row) => row.length));
  const { seqLen = longest, mtpDepth = 0, labels } = options;
  if (longest > seqLen) throw shapeError(`rows of at most ${seqLen} tokens`, `one of ${longest}`);
  if (labels !== undefined && labels.length !== ids.length)
    throw shapeError(`${ids.length} rows of labels`, `${labels.length}`);
  const batch = emptyBatch(ids.length, seqLen, mtpDepth);
  for (const [b, row] of ids.entries()) {
    const rowLabels = labels?.[b] ?? row;
    if (rowLabels.length !== row.length) throw shapeError(`${row.length} labels in row ${b}`, `${rowLabels.length}`);
    if (row.length === 0) continue;
    const target = { at: b * seqLen, docId: 0, count: row.length };
    placeDocument(batch, target, Int32Array.from(row), 0, Int32Array.from(rowLabels));
  }
  return batch;
}

function shapeError(expected: string, got: string): HadalError {
  return new HadalError('HADAL_ERR_SHAPE', `[batch] expected ${expected}, got ${got}`);
}
