import { HadalError } from '../core/errors.js';
import { workerUrl } from '../core/worker-url.js';
import { TokenShards } from '../formats/token-shards.js';
import type { Batch, DataCursor } from './batch.js';
import type { PackTask } from './pack-worker.js';
import type { SourceShare } from './prepared.js';
import { openStream, type RowStream } from './weighted-stream.js';
import { WorkerPool } from './worker-pool.js';

/** What batches to make, and from what. */
export interface EvalOptions {
  /** Directory of token shards. */
  readonly shards: string;
  /** Rows a batch, those of all processes together. */
  readonly batch: number;
  /** Tokens a row. */
  readonly seqLen: number;
  /** Number of MTP depths to make inputs and labels for; 0 unless given. */
  readonly mtpDepth?: number;
  /** This process among `worldSize` that divide each batch into consecutive rows; 0 of 1 unless given. */
  readonly rank?: number;
  readonly worldSize?: number;
  /** Worker threads; 1 unless given. The batches do not depend on it. 0 packs in the calling thread, without look-ahead. */
  readonly threads?: number;
  /** Batches made ahead of time; 2 unless given. */
  readonly prefetch?: number;
}

/** {@link EvalOptions}, and the order of training. */
export interface LoaderOptions extends EvalOptions {
  readonly seed: number;
  /** The sources that the documents are of, in order; rows are taken by weight where they have weights. */
  readonly sources?: readonly SourceShare[] | undefined;
  /** Where to go on, as an earlier batch's `cursor` says. Another world size or batch size may go on from it. */
  readonly cursor?: DataCursor | undefined;
}

/** Makes batches in the order they are asked for, ahead of time in worker threads. */
class Packer implements AsyncDisposable {
  private readonly options: Omit<PackTask, 'token'>;
  private readonly pool: WorkerPool | undefined;
  private readonly prefetch: number;
  private readonly ahead: Promise<Batch>[] = [];
  readonly stream: RowStream;
  /** Tokens a batch takes from the stream, all processes together. */
  readonly stepTokens: number;
  private readonly source: TokenShards;
  /** Start of the next batch to be handed to a worker. */
  private scheduled: number;

  constructor(
    options: EvalOptions & { sources?: readonly SourceShare[] | undefined },
    seed: number | undefined,
    token: (stream: RowStream) => number,
  ) {
    const { sources } = options;
    const { shards, batch, seqLen, mtpDepth = 0, rank = 0, worldSize = 1, threads = 1, prefetch = 2 } = options;
    this.options = { shards, batch, seqLen, mtpDepth, rank, worldSize, seed, sources };
    this.stepTokens = batch * seqLen;
    this.prefetch = threads === 0 ? 0 : prefetch;
    this.source = TokenShards.open(shards);
    this.stream = openStream(this.source, seed, sources);
    this.scheduled = token(this.stream);
    this.pool = threads > 0 ? new WorkerPool(workerUrl(import.meta.url, './pack-worker.js'), threads) : undefined;
  }

  next(): Promise<Batch> {
    while (this.ahead.length <= this.prefetch) {
      const packing = this.pack(this.scheduled);
      packing.catch(() => {}); // reported when its turn comes
      this.ahead.push(packing);
      this.scheduled += this.stepTokens;
    }
    return this.ahead.shift() as Promise<Batch>;
  }

  private async pack(token: number): Promise<Batch> {
    if (this.pool === undefined) return this.stream.pack(token, this.options);
    const task: PackTask = { ...this.options, token };
    return this.pool.run<Batch>('packBatch', task);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.pool?.[Symbol.asyncDispose]();
    this.source[Symbol.dispose]();
  }
}

/**
 * Endless batches for training, reshuffled every epoch. Each is complete in shared memory when it is given out and
 * carries the cursor from which a new loader goes on with exactly the batches that would have followed.
 *
 * @example
 * await using loader = new DataLoader({ shards, batch: 8, seqLen: 512, seed: 1 });
 * const batch = await loader.next();
 */
export class DataLoader implements AsyncDisposable {
  private readonly packer: Packer;
  private token = 0;

  /** @throws HadalError HADAL_ERR_DATA, HADAL_ERR_FORMAT, HADAL_ERR_IO; HADAL_ERR_CHECKPOINT for a cursor of other data */
  constructor(private readonly options: LoaderOptions) {
    requireSizes(options);
    this.packer = new Packer(options, options.seed, (stream) => {
      this.token = startOf(options, stream);
      return this.token;
    });
  }

  /** Where the next batch asked for starts. */
  get cursor(): DataCursor {
    const { documents, tokensPerEpoch } = this.packer.stream;
    const epoch = Math.floor(this.token / tokensPerEpoch);
    const cursor = {
      version: 1,
      token: this.token,
      epoch,
      seed: this.options.seed,
      documents,
      tokensPerEpoch,
    } as const;
    const weights = weightsOf(this.options);
    return weights === undefined ? cursor : { ...cursor, weights };
  }

  async next(): Promise<Batch> {
    this.token += this.packer.stepTokens;
    const { cursor } = this; // before waiting: several batches may be asked for at once
    return { ...(await this.packer.next()), cursor };
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Batch, never> {
    while (true) yield await this.next();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.packer[Symbol.asyncDispose]();
  }
}

/** Weights of the sources, where they have some. */
function weightsOf({ sources }: LoaderOptions): number[] | undefined {
  return sources?.some(({ weight }) => weight !== undefined) ? sources.map(({ weight = 1 }) => weight) : undefined;
}

function startOf(options: LoaderOptions, { documents, tokensPerEpoch }: RowStream): number {
  const { cursor, seed } = options;
  if (cursor === undefined) return 0;
  const weights = weightsOf(options);
  if (JSON.stringify(cursor.weights) !== JSON.stringify(weights)) {
    const listed = (given: readonly number[] | undefined): string => given?.join(', ') ?? 'none';
    throw new HadalError(
      'HADAL_ERR_CHECKPOINT',
      `[data] expected the weights of the checkpoint (${listed(cursor.weights)}), got ${listed(weights)}; give the same to resume`,
    );
  }
  const same = cursor.version === 1 && cursor.seed === seed && cursor.documents === documents;
  if (same && cursor.tokensPerEpoch === tokensPerEpoch && Number.isSafeInteger(cursor.token) && cursor.token >= 0) {
    return cursor.token;
  }
  const expected = `the data of the checkpoint (${cursor.documents} documents, ${cursor.tokensPerEpoch} tokens, seed ${cursor.seed})`;
  const got = `${documents} documents, ${tokensPerEpoch} tokens, seed ${seed}`;
  throw new HadalError(
    'HADAL_ERR_CHECKPOINT',
    `[data] expected ${expected}, got ${got}; give the same data and seed to resume`,
  );
}

/** One pass over the documents in their order; the last batch is filled up with padding. */
export async function* evalBatches(options: EvalOptions): AsyncGenerator<Batch, void> {
  requireSizes(options);
  await using packer = new Packer(options, undefined, () => 0);
  const batches = Math.ceil(packer.stream.tokensPerEpoch / packer.stepTokens);
  for (let i = 0; i < batches; i++) yield await packer.next();
}

function requireSizes({
  batch,
  seqLen,
  mtpDepth = 0,
  rank = 0,
  worldSize = 1,
  threads = 1,
  prefetch = 2,
}: EvalOptions): void {
  const sizes = {
    batch,
    seqLen,
    worldSize,
    'mtpDepth + 1': mtpDepth + 1,
    'rank + 1': rank + 1,
    'threads + 1': threads + 1,
  };
  for (const [name, value] of Object.entries({ ...sizes, 'prefetch + 1': prefetch + 1 })) {
    if (!Number.isSafeInteger(value) || value < 1) {
      throw new HadalError('HADAL_ERR_CONFIG', `[data] expected ${name} of at least 1, got ${value}`);
    }
  }
  if (rank >= worldSize)
    throw new HadalError('HADAL_ERR_CONFIG', `[data] expected a rank below ${worldSize}, got ${rank}`);
  if (batch < worldSize) {
    throw new HadalError(
      'HADAL_ERR_CONFIG',
      `[data] expected batches of at least a row for each of ${worldSize} processes, got ${batch}; take a larger batch, fewer processes or fewer micro-batches`,
    );
  }
}
