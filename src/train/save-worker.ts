// Writes checkpoints from snapshots, off the main thread.
import { constants, setPriority } from 'node:os';
import { toWorkerResult, type WorkerResult } from '../data/worker-pool.js';
import { type DirectoryContents, saveContents } from '../formats/directory-contents.js';

/** A checkpoint to write; the tensors' numbers are there, not yet to be read. */
export interface SaveTask {
  path: string;
  contents: DirectoryContents;
}

/** Writes a checkpoint; answers with its size in bytes. */
export function save({ path, contents }: SaveTask): Promise<WorkerResult<number>> {
  // Linux gives each thread a priority of its own: training goes first. Elsewhere it would be the whole process's.
  if (process.platform === 'linux') setPriority(constants.priority.PRIORITY_LOW);
  return toWorkerResult(() => saveContents(path, contents, { inThread: true }));
}
