// Writes checkpoints from snapshots, off the main thread.
import { loadAddon } from '../addon/addon.js';
import { toWorkerResult, type WorkerResult } from '../data/worker-pool.js';
import {
  type DirectoryContents,
  saveContents,
  type TensorFileContents,
  writeTensorFiles,
} from '../formats/directory-contents.js';
import type { FileSum } from '../formats/manifest.js';

/** A checkpoint to write; the tensors' numbers are at hand. */
export interface SaveTask {
  path: string;
  contents: DirectoryContents;
  /** Of the tensors together. */
  bytes: number;
}

/** Files to write into the directory of a checkpoint that others write to as well. */
export interface WriteTask {
  directory: string;
  files: TensorFileContents;
  bytes: number;
}

/** Less is written in a tenth of a second; a machine that others fill would let it wait for much longer. */
const bytesWorthWaiting = 2 ** 26;

/** Training goes first: a thread of low priority alone would still make its threads wait at every barrier. */
function giveWayWith(bytes: number): void {
  if (bytes >= bytesWorthWaiting) loadAddon().giveWay();
}

/** Writes a checkpoint; answers with its size in bytes. */
export function save({ path, contents, bytes }: SaveTask): Promise<WorkerResult<number>> {
  giveWayWith(bytes);
  return toWorkerResult(() => saveContents(path, contents, { inThread: true }));
}

/** Writes some files of one; answers with their sizes and checksums. */
export function write({ directory, files, bytes }: WriteTask): Promise<WorkerResult<Record<string, FileSum>>> {
  giveWayWith(bytes);
  return toWorkerResult(() => writeTensorFiles(directory, files, { inThread: true }));
}
