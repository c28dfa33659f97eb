// Whether all processes of a run see one directory.
import { readFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join, resolve } from 'node:path';
import type { Together } from './together.js';

/**
 * Compares what processes find in a directory that rank 0 owns: its lock says by whom and since when.
 *
 * @throws HadalError HADAL_ERR_CONFIG on all where one of them does not see it, HADAL_ERR_COMM
 */
export async function requireOneDirectory(together: Together, path: string): Promise<void> {
  const lock = await readFile(join(path, 'run.lock'), 'utf8').catch(() => null);
  const all = await together.gather('directory seen', { lock, host: hostname(), path: resolve(path) });
  const [first] = all;
  const blind = all.findIndex((each) => each.lock !== first?.lock);
  if (blind < 0) return;
  const other = all[blind];
  throw together.common(
    'HADAL_ERR_CONFIG',
    `[train] expected one run directory for all processes, got another at ${other?.path} for rank ${blind} on ${other?.host} than rank 0 has at ${first?.path} on ${first?.host}; give --out a place on a file system that all hosts share`,
  );
}
