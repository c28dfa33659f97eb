import { type FileHandle, mkdir, open, readdir, rename, rm, rmdir } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { threadId } from 'node:worker_threads';
import { HadalError } from '../core/errors.js';
import { withFileErrors } from './file-error.js';
import { makeDirectory } from './make-directory.js';

/** Temporary paths this thread is filling right now. */
const active = new Set<string>();

/**
 * Writes a file that appears whole or not at all: filled beside its place, synced, renamed.
 *
 * @throws HadalError HADAL_ERR_IO when the machine refuses; what was at `path` is then untouched
 */
export async function writeFileAtomic(path: string, data: string | Uint8Array): Promise<void> {
  await withAtomicFile(path, (handle) => handle.writeFile(data));
}

/** Like {@link writeFileAtomic}, for contents too large to hold: `fill` writes to the open file. */
export async function withAtomicFile<T>(path: string, fill: (handle: FileHandle) => Promise<T>): Promise<T> {
  return withTemporary(resolve(path), async (temporary) => {
    const handle = await open(temporary, 'w');
    let result: T;
    try {
      result = await fill(handle);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(temporary, path);
    await syncDirectory(dirname(resolve(path)));
    return result;
  });
}

/**
 * Makes a directory that appears whole or not at all: `fill` writes into `<dir>.tmp-…`, everything is synced, then it
 * is renamed. `dir` must not exist or be empty, so nobody's files are lost.
 *
 * @throws HadalError HADAL_ERR_IO when the machine refuses or `dir` has contents
 */
export async function withAtomicDirectory<T>(dir: string, fill: (temporary: string) => Promise<T>): Promise<T> {
  const target = resolve(dir);
  return withTemporary(target, async (temporary) => {
    await requireEmpty(target);
    await mkdir(temporary);
    const result = await fill(temporary);
    await publishDirectory(temporary, target);
    return result;
  });
}

/**
 * Gives a directory that was filled beside its place its name, once everything in it is synced.
 *
 * @throws what the system refuses
 */
export async function publishDirectory(temporary: string, target: string): Promise<void> {
  await syncTree(temporary);
  await rmdir(target).catch(ignoreMissing);
  await rename(temporary, target);
  await syncDirectory(dirname(target));
}

async function withTemporary<T>(target: string, fill: (temporary: string) => Promise<T>): Promise<T> {
  const temporary = `${target}.tmp-${process.pid}-${threadId}`;
  if (active.has(temporary)) {
    throw new HadalError(
      'HADAL_ERR_LOCKED',
      `[file] expected one writer of ${target}, got two at once; await the first`,
    );
  }
  active.add(temporary);
  try {
    return await withFileErrors(`write ${target}`, async () => {
      await makeDirectory(dirname(target));
      await removeLeftovers(target);
      return fill(temporary);
    });
  } finally {
    await rm(temporary, { recursive: true, force: true }).catch(() => {}); // the first error is the one to report
    active.delete(temporary);
  }
}

/** Removes what writers of `target` that died left behind: other processes that are gone, or this very process id. */
async function removeLeftovers(target: string): Promise<void> {
  const prefix = `${basename(target)}.tmp-`;
  for (const name of await readdir(dirname(target))) {
    const match = name.startsWith(prefix) && /^(\d+)-(\d+)$/.exec(name.slice(prefix.length));
    if (!match) continue;
    const own = Number(match[1]) === process.pid;
    const stale = own ? Number(match[2]) === threadId : !isAlive(Number(match[1]));
    if (stale) await rm(join(dirname(target), name), { recursive: true, force: true });
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

async function requireEmpty(dir: string): Promise<void> {
  const names = await readdir(dir).catch(ignoreMissing);
  if (names !== undefined && names.length > 0) {
    throw new HadalError(
      'HADAL_ERR_IO',
      `[file] expected ${dir} to be new or empty, got '${names[0]}' in it; choose another directory`,
    );
  }
}

function ignoreMissing(error: NodeJS.ErrnoException): undefined {
  if (error.code !== 'ENOENT') throw error;
  return undefined;
}

async function syncTree(dir: string): Promise<void> {
  for (const entry of await readdir(dir, { withFileTypes: true })) {
    const path = join(dir, entry.name);
    if (entry.isDirectory()) await syncTree(path);
    else if (entry.isFile()) await syncPath(path);
  }
  await syncDirectory(dir);
}

async function syncDirectory(dir: string): Promise<void> {
  if (process.platform !== 'win32') await syncPath(dir); // Windows cannot open a directory
}

async function syncPath(path: string): Promise<void> {
  const handle = await open(path, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
