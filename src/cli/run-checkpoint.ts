// `hadal checkpoint`: what a run has saved.
import { existsSync } from 'node:fs';
import { readdir, readFile, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { z } from 'zod';
import { HadalError } from '../core/errors.js';
import { formatBytes, formatDuration, formatInteger } from '../core/format.js';
import { withFileErrors } from '../formats/file-error.js';
import { verifyManifest } from '../formats/manifest.js';
import { damageIn } from '../train/checkpoint.js';
import { checkpointsPath, type KeptAs, keptCheckpoints, listCheckpoints } from '../train/checkpoint-list.js';
import { RunDirectory } from '../train/run-directory.js';
import type { PruneFlags } from './checkpoint.js';
import { printJson, printLine, tableLines } from './output.js';

interface Limits {
  keep: number;
  best: number;
}

const limitsSchema = z.object({
  checkpoint: z.object({ keep: z.number().int().positive().default(2), best: z.number().int().default(0) }),
});

/** What the run's configuration says of it; its defaults where there is none that can be read. */
async function limitsOf(run: string): Promise<Limits> {
  try {
    return limitsSchema.parse(JSON.parse(await readFile(join(run, 'config.json'), 'utf8'))).checkpoint;
  } catch {
    return { keep: 2, best: 0 };
  }
}

/** @throws HadalError HADAL_ERR_USAGE where there is no run */
function requireRun(run: string): void {
  if (existsSync(checkpointsPath(run))) return;
  throw new HadalError(
    'HADAL_ERR_USAGE',
    `[checkpoint] expected a run directory with checkpoints/ in it, got ${run}; give what train's --out was`,
  );
}

const reasons: Record<KeptAs, (limits: Limits) => string> = {
  newest: ({ keep }) => `newest ${keep}`,
  best: ({ best }) => `best ${best}`,
};

/** Lists a run's checkpoints, the newest first. @throws HadalError HADAL_ERR_USAGE, HADAL_ERR_IO */
export async function runList(run: string, json: boolean): Promise<void> {
  requireRun(run);
  const limits = await limitsOf(run);
  const found = await listCheckpoints(run);
  const kept = keptCheckpoints(found, limits);
  const checkpoints = await Promise.all(
    found.map(async ({ name, step, evalLoss, worldSize, zero }) => {
      const path = join(checkpointsPath(run), name);
      const as = kept.get(name);
      return {
        name,
        step,
        ...(await sizeOfDirectory(path)),
        evalLoss,
        worldSize,
        zero,
        kept: as ? reasons[as](limits) : null,
        damage: await sizeDamageOf(path),
      };
    }),
  );
  if (json) return printJson({ run, checkpoints });
  const rows = checkpoints.map(({ name, bytes, ageSeconds, evalLoss, worldSize, zero, kept, damage }) => [
    name,
    `${worldSize}${zero > 0 ? `, ZeRO ${zero}` : ''}`,
    formatBytes(bytes),
    formatDuration(1000 * ageSeconds),
    evalLoss?.toFixed(4) ?? '–',
    damage ? 'damaged' : (kept ?? 'not any more'),
  ]);
  if (rows.length === 0) return printLine(`no checkpoints in ${run}`);
  for (const line of tableLines([['checkpoint', 'processes', 'size', 'age', 'held-out loss', 'kept as'], ...rows]))
    printLine(line);
}

/** Bytes of a directory's files, and how long ago it was written. */
async function sizeOfDirectory(path: string): Promise<{ bytes: number; ageSeconds: number }> {
  return withFileErrors(`read ${path}`, async () => {
    const files = (await readdir(path, { recursive: true, withFileTypes: true })).filter((entry) => entry.isFile());
    const infos = await Promise.all(files.map(({ parentPath, name }) => stat(join(parentPath, name))));
    const written = Math.max(0, ...infos.map(({ mtimeMs }) => mtimeMs));
    const bytes = infos.reduce((sum, { size }) => sum + size, 0);
    return { bytes, ageSeconds: Math.max(0, Math.round((Date.now() - written) / 1000)) };
  });
}

/** The whole of a checkpoint, for one process to read. */
const all = { rank: 0, size: 1 };

/** What is wrong with a checkpoint as far as sizes show; null: nothing. */
async function sizeDamageOf(path: string): Promise<string | null> {
  try {
    await verifyManifest(path, { checksums: false });
    return null;
  } catch (error) {
    if (error instanceof HadalError && error.code === 'HADAL_ERR_CHECKPOINT') return error.message;
    throw error;
  }
}

/**
 * Reads a checkpoint, or all of a run, and compares it with its checksums; of one in pieces each number must be there once.
 *
 * @throws HadalError HADAL_ERR_CHECKPOINT when one is damaged, after all were looked at; HADAL_ERR_USAGE, HADAL_ERR_IO
 */
export async function runVerify(path: string, json: boolean): Promise<void> {
  // Without a manifest a directory may still be a checkpoint: a damaged one.
  const isOne =
    !existsSync(checkpointsPath(path)) && ['manifest.json', 'state.json'].some((file) => existsSync(join(path, file)));
  if (!isOne) requireRun(path);
  const paths = isOne ? [path] : (await listCheckpoints(path)).map(({ name }) => join(checkpointsPath(path), name));
  const checkpoints: { path: string; damage: string | null }[] = [];
  for (const one of paths) {
    const damage = await damageIn(one, all);
    checkpoints.push({ path: one, damage });
    if (!json) printLine(damage ? `damaged  ${basename(one)}: ${damage}` : `whole    ${basename(one)}`);
  }
  if (json) printJson({ path, checkpoints });
  const damaged = checkpoints.filter(({ damage }) => damage !== null);
  if (damaged.length === 0) return;
  throw new HadalError(
    'HADAL_ERR_CHECKPOINT',
    `[checkpoint] expected whole checkpoints in ${path}, ${formatInteger(damaged.length)} of ${formatInteger(paths.length)} are damaged; train --resume takes the newest whole one`,
  );
}

/**
 * Deletes all but the newest and the best.
 *
 * @throws HadalError HADAL_ERR_LOCKED while the run is trained; HADAL_ERR_CHECKPOINT when one that would stay is damaged;
 *   HADAL_ERR_USAGE, HADAL_ERR_IO
 */
export async function runPrune(run: string, { keep, best, dryRun = false, json = false }: PruneFlags): Promise<void> {
  requireRun(run);
  const ofRun = await limitsOf(run);
  const limits = { keep: keep ?? ofRun.keep, best: best ?? ofRun.best };
  // Also of a dry run: what it says is to be true.
  using directory = await RunDirectory.open(run, { resume: true });
  const found = await listCheckpoints(run);
  const kept = keptCheckpoints(found, limits);
  for (const name of kept.keys()) {
    const damage = await damageIn(join(checkpointsPath(run), name), all);
    if (damage === null) continue;
    throw new HadalError(
      'HADAL_ERR_CHECKPOINT',
      `[checkpoint] expected to keep whole checkpoints, ${name} is damaged and nothing was deleted: ${damage}`,
    );
  }
  const removed = dryRun
    ? found.map(({ name }) => name).filter((name) => !kept.has(name))
    : await directory.prune(limits);
  if (json) return printJson({ run, ...limits, dryRun, removed });
  for (const name of removed) printLine(`${dryRun ? 'would delete' : 'deleted'} ${name}`);
  if (removed.length === 0) printLine('nothing to delete');
}
