import { TokenShards } from '../formats/token-shards.js';
import type { Batch } from './batch.js';
import type { PackOptions } from './packing.js';
import type { SourceShare } from './prepared.js';
import { openStream, type RowStream } from './weighted-stream.js';
import { toWorkerResult, type WorkerResult } from './worker-pool.js';

/** One batch to pack. */
export interface PackTask extends PackOptions {
  /** Directory of token shards. */
  readonly shards: string;
  readonly seed: number | undefined;
  /** The documents' sources, in order, where they may have weights. */
  readonly sources: readonly SourceShare[] | undefined;
  readonly token: number;
}

/** Streams this thread has open. */
const streams = new Map<string, RowStream>();

/** Packs one batch; its arrays are shared with the caller, not copied. */
export function packBatch(task: PackTask): Promise<WorkerResult<Batch>> {
  return toWorkerResult(() => {
    const key = JSON.stringify([task.seed, task.shards, task.sources]);
    let stream = streams.get(key);
    if (stream === undefined) {
      stream = openStream(TokenShards.open(task.shards), task.seed, task.sources);
      streams.set(key, stream);
    }
    return stream.pack(task.token, task);
  });
}
