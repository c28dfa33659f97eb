// A checkpoint that several processes write into one directory, which appears whole or not at all.
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readdir, rm, stat } from 'node:fs/promises';
import { hostname } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { HadalError } from '../core/errors.js';
import { publishDirectory, writeFileAtomic } from '../formats/atomic-file.js';
import { withFileErrors } from '../formats/file-error.js';
import { makeDirectory } from '../formats/make-directory.js';
import { type FileSum, writeManifest } from '../formats/manifest.js';
import type { Together } from './together.js';

/** Sizes and checksums of files, by their path within the directory. */
export type Written = Record<string, FileSum>;

/** What a process does for a checkpoint. */
export interface SharedWork {
  /** Writes its files into the directory, from what it holds alone. */
  write(dir: string): Promise<Written>;
  /** Writes those files that need what others have written; null: there are none. */
  assemble: ((dir: string) => Promise<Written>) | null;
  /** Of the files that were written, those that only assembling needs. */
  isPassing(file: string): boolean;
  /** Texts by path; of rank 0 alone. */
  texts: Readonly<Record<string, string>>;
}

/**
 * Writes a directory together. Rank 0 makes it beside its place and gives it its name once all have written and synced
 * their parts; where one fails, or is lost, none stands and what stood is as it was.
 *
 * @param name - of the save, the same on all
 * @returns bytes of the files
 * @throws HadalError on all processes: HADAL_ERR_IO where the machine of one refuses, HADAL_ERR_CONFIG where they have no
 *   file system in common, HADAL_ERR_COMM when one is lost
 */
export async function saveTogether(together: Together, name: string, path: string, work: SharedWork): Promise<number> {
  let hidden: string | null = null;
  try {
    const made = await together.madeByFirst(`${name} directory`, async () => {
      hidden = await makeHidden(path);
      return { directory: basename(hidden), host: hostname() };
    });
    const dir = join(dirname(path), made.directory);
    const sums = await together.done(`${name} files`, async () => {
      requireSeen(together, dir, made.host);
      return naming(together, () => work.write(dir));
    });
    const { assemble } = work;
    if (assemble) sums.push(...(await together.done(`${name} models`, () => naming(together, () => assemble(dir)))));
    const written = Object.assign({}, ...sums) as Written;
    return await together.madeByFirst(`${name} whole`, () => finish(dir, path, written, work));
  } catch (error) {
    // The first error is the one to report; what cannot be removed now, a later save removes.
    if (hidden) await rm(hidden, { recursive: true, force: true }).catch(() => {});
    throw error;
  }
}

/** Beside the checkpoint, with a name that no other attempt has. What earlier ones left is removed. */
async function makeHidden(path: string): Promise<string> {
  const parent = dirname(path);
  return withFileErrors(`write ${path}`, async () => {
    await makeDirectory(parent);
    for (const name of await readdir(parent)) {
      if (/^step-\d{8}\.tmp-/.test(name)) await rm(join(parent, name), { recursive: true, force: true });
    }
    const hidden = `${path}.tmp-${randomBytes(6).toString('hex')}`;
    await mkdir(hidden);
    return hidden;
  });
}

function requireSeen({ rank }: Together, dir: string, host: string): void {
  if (existsSync(dir)) return;
  throw new HadalError(
    'HADAL_ERR_CONFIG',
    `[checkpoint] expected one directory for all processes, got none at ${dir} for rank ${rank} on ${hostname()}, where rank 0 on ${host} has made it; give --out a place on a file system that all hosts share`,
  );
}

/** Says whose machine it is that refuses. */
async function naming<T>({ rank }: Together, write: () => Promise<T>): Promise<T> {
  try {
    return await write();
  } catch (error) {
    if (!(error instanceof HadalError) || error.code !== 'HADAL_ERR_IO') throw error;
    throw new HadalError(error.code, `${error.message} (rank ${rank} on ${hostname()})`, { cause: error });
  }
}

/** What rank 0 does once all is written. @returns bytes of the files */
async function finish(dir: string, path: string, sums: Written, { isPassing, texts }: SharedWork): Promise<number> {
  return withFileErrors(`write ${path}`, async () => {
    const written = new Map<string, FileSum>();
    for (const [file, sum] of Object.entries(sums)) {
      const full = join(dir, file);
      const size = (await stat(full)).size;
      if (size !== sum.bytes)
        throw new HadalError('HADAL_ERR_IO', `[checkpoint] expected ${full} of ${sum.bytes} bytes, got ${size}`);
      if (isPassing(file)) await rm(full);
      else written.set(full, sum);
    }
    for (const [file, text] of Object.entries(texts)) await writeFileAtomic(join(dir, file), text);
    const { files } = await writeManifest(dir, written);
    await publishDirectory(dir, path);
    return files.reduce((sum, { bytes }) => sum + bytes, 0);
  });
}
