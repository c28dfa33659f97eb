// Writes checkpoints from snapshots, off the main thread.
import { loadAddon } from '../addon/addon.js';
import { toWorkerResult, type WorkerResult } from '../data/worker-pool.js';
import { type DirectoryContents, saveContents } from '../formats/directory-contents.js';

/** A checkpoint to write; the tensors' numbers are there, not yet to be read. */
export interface SaveTask {
  path: string;
  contents: DirectoryContents;
}

/** Writes a checkpoint; answers with its size in bytes. */
export function save({ path, contents }: SaveTask): Promise<WorkerResult<number>> {
  // Training goes first: a thread of low priority alone would still make its threads wait at every barrier.
  loadAddon().giveWay();
  return toWorkerResult(() => saveContents(path, contents, { inThread: true }));
}
