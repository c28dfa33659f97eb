// Writes checkpoints from snapshots, off the main thread.
import { loadAddon } from '../addon/addon.js';
import { toWorkerResult, type WorkerResult } from '../data/worker-pool.js';
import { type DirectoryContents, saveContents } from '../formats/directory-contents.js';

/** A checkpoint to write; the tensors' numbers are at hand. */
export interface SaveTask {
  path: string;
  contents: DirectoryContents;
  /** Of the tensors together. */
  bytes: number;
}

/** Less is written in a tenth of a second; a machine that others fill would let it wait for much longer. */
const bytesWorthWaiting = 2 ** 26;

/** Writes a checkpoint; answers with its size in bytes. */
export function save({ path, contents, bytes }: SaveTask): Promise<WorkerResult<number>> {
  // Training goes first: a thread of low priority alone would still make its threads wait at every barrier.
  if (bytes >= bytesWorthWaiting) loadAddon().giveWay();
  return toWorkerResult(() => saveContents(path, contents, { inThread: true }));
}
