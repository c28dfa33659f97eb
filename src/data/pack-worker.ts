import { TokenShards } from '../formats/token-shards.js';
import type { Batch } from './batch.js';
import { PackedStream, type PackOptions } from './packing.js';
import { toWorkerResult, type WorkerResult } from './worker-pool.js';

/** One batch to pack. */
export interface PackTask extends PackOptions {
  /** Directory of token shards. */
  readonly shards: string;
  readonly seed: number | undefined;
  readonly token: number;
}

/** Streams this thread has open. */
const streams = new Map<string, PackedStream>();

/** Packs one batch; its arrays are shared with the caller, not copied. */
export function packBatch(task: PackTask): Promise<WorkerResult<Batch>> {
  return toWorkerResult(() => {
    const key = `${task.seed} ${task.shards}`;
    let stream = streams.get(key);
    if (stream === undefined) {
      stream = new PackedStream(TokenShards.open(task.shards), task.seed);
      streams.set(key, stream);
    }
    return stream.pack(task.token, task);
  });
}
