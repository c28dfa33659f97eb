// Packed rows as training sees them, for people to look at.
import { HadalError } from '../core/errors.js';
import { TokenShards } from '../formats/token-shards.js';
import { type Batch, ignoredLabel } from './batch.js';
import { pathOf } from './data-config.js';
import type { TokenDocuments } from './packing.js';
import { PlainTextEncoder } from './plain-text-encoder.js';
import { isPrepared, openPrepared } from './prepared.js';
import { readDocuments, type SourceOptions } from './sources.js';
import { loadTokenizer, type Tokenizer } from './tokenizer.js';
import { openStream, type RowStream } from './weighted-stream.js';

/** Neighbouring positions that all are targets, or that all are none. */
export interface RowPiece {
  readonly text: string;
  /** Whether the losses count what follows these tokens: their labels are not −100. */
  readonly isTarget: boolean;
}

/** A document's part in a row. Nothing is predicted, and nothing attended to, across its borders. */
export interface RowDocument {
  /** First position in the row. */
  readonly begin: number;
  readonly ids: number[];
  /** The next token at each position, −100 where none is predicted. */
  readonly labels: number[];
  readonly pieces: RowPiece[];
}

/** One packed row. */
export interface PackedRow {
  readonly row: number;
  readonly seqLen: number;
  /** Positions that the losses count. */
  readonly targets: number;
  readonly padding: number;
  readonly documents: RowDocument[];
}

/** What rows to show. */
export interface PackedRowOptions extends SourceOptions {
  readonly rows: number;
  readonly seqLen: number;
  /** Needed for sources that are not prepared. */
  readonly tokenizer?: string | undefined;
  readonly specialTokensAsText?: boolean;
  /** Seed of the order that rows of prepared data are in, as in training. */
  readonly seed: number;
}

/**
 * The first rows of prepared data in the order of training, or of sources in the order of their documents.
 *
 * @throws HadalError HADAL_ERR_CONFIG without a tokenizer, HADAL_ERR_DATA, HADAL_ERR_FORMAT, HADAL_ERR_IO
 */
export async function* packedRows(options: PackedRowOptions): AsyncGenerator<PackedRow> {
  const [only] = options.sources;
  const dir = options.sources.length === 1 && only !== undefined && isPrepared(pathOf(only)) ? pathOf(only) : undefined;
  if (dir !== undefined) {
    const { train } = openPrepared(dir);
    const tokenizer = await loadTokenizer(options.tokenizer ?? dir);
    using shards = TokenShards.open(train.dir);
    yield* rowsOf(openStream(shards, options.seed, train.sources), tokenizer, options);
    return;
  }
  if (options.tokenizer === undefined)
    throw new HadalError(
      'HADAL_ERR_CONFIG',
      '[data] expected a tokenizer for data that is not prepared, got none; name one',
    );
  const tokenizer = await loadTokenizer(options.tokenizer);
  yield* rowsOf(openStream(await firstDocuments(tokenizer, options), undefined, undefined), tokenizer, options);
}

/** As many documents as the rows need. */
async function firstDocuments(tokenizer: Tokenizer, options: PackedRowOptions): Promise<TokenDocuments> {
  const encoder = (options.specialTokensAsText ?? true) ? new PlainTextEncoder(tokenizer) : tokenizer;
  const documents: Int32Array[] = [];
  let missing = options.rows * options.seqLen;
  const one = (id: number | undefined): number[] => (id === undefined ? [] : [id]);
  for await (const { text } of readDocuments(options)) {
    const [ids = new Int32Array()] = await encoder.encodeBatch([text]);
    documents.push(Int32Array.from([...one(tokenizer.bosId), ...ids, ...one(tokenizer.eosId)]));
    missing -= documents.at(-1)?.length ?? 0;
    if (missing <= 0) break;
  }
  return {
    documents: documents.length,
    lengths: () => Uint32Array.from(documents, ({ length }) => length),
    read: (i) => documents[i] as Int32Array,
  };
}

async function* rowsOf(
  stream: RowStream,
  tokenizer: Tokenizer,
  { rows, seqLen }: PackedRowOptions,
): AsyncGenerator<PackedRow> {
  for (let row = 0; row < rows; row++) {
    const batch = stream.pack(row * seqLen, { batch: 1, seqLen, mtpDepth: 0 });
    if (batch.counts.tokens === 0) return; // sources may hold less than was asked for
    const documents: RowDocument[] = [];
    for (let begin = 0; begin < batch.counts.tokens; begin += documents.at(-1)?.ids.length ?? seqLen)
      documents.push(await documentAt(batch, begin, tokenizer));
    yield { row, seqLen, targets: batch.counts.labels, padding: seqLen - batch.counts.tokens, documents };
  }
}

async function documentAt(
  { docIds, tokens, labels }: Batch,
  begin: number,
  tokenizer: Tokenizer,
): Promise<RowDocument> {
  let end = begin + 1;
  while (end < docIds.length && docIds[end] === docIds[begin]) end++;
  const pieces: RowPiece[] = [];
  for (let from = begin; from < end; ) {
    const isTarget = labels[from] !== ignoredLabel;
    let to = from + 1;
    while (to < end && (labels[to] !== ignoredLabel) === isTarget) to++;
    pieces.push({ text: await tokenizer.decode(tokens.subarray(from, to), { skipSpecialTokens: false }), isTarget });
    from = to;
  }
  return { begin, ids: [...tokens.subarray(begin, end)], labels: [...labels.subarray(begin, end)], pieces };
}
