// The checkpoints of a run, and which of them are kept.
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { withFileErrors } from '../formats/file-error.js';

/** A checkpoint among those of its run. */
export interface ListedCheckpoint {
  /** Of its directory. */
  name: string;
  step: number;
  /** Loss on held-out text, where it was measured. */
  evalLoss: number | null;
  /** Processes that wrote it, and their ZeRO stage. */
  worldSize: number;
  zero: number;
}

/** Why a checkpoint is kept. */
export type KeptAs = 'newest' | 'best';

/** Where a run's checkpoints lie. */
export const checkpointsPath = (run: string): string => join(run, 'checkpoints');

/** Name of the checkpoint after so many updates. */
export const checkpointName = (step: number): string => `step-${String(step).padStart(8, '0')}`;

/** A run's checkpoints, the newest first. Those that are not whole have other names. @throws HadalError HADAL_ERR_IO */
export async function checkpointNames(run: string): Promise<string[]> {
  const path = checkpointsPath(run);
  const names = await withFileErrors(`read ${path}`, () => readdir(path));
  return names
    .filter((name) => /^step-\d{8}$/.test(name))
    .sort()
    .reverse();
}

/** The same with what is needed to compare them. @throws HadalError HADAL_ERR_IO */
export async function listCheckpoints(run: string): Promise<ListedCheckpoint[]> {
  const names = await checkpointNames(run);
  return Promise.all(
    names.map(async (name) => ({
      name,
      step: Number(name.slice('step-'.length)),
      ...(await statedIn(join(checkpointsPath(run), name))),
    })),
  );
}

const statedSchema = z.object({
  evalLoss: z.number().nullable().catch(null),
  dist: z.object({ worldSize: z.number(), zero: z.number() }).catch({ worldSize: 1, zero: 0 }),
});

/** No loss also where the state cannot be read: a damaged checkpoint is nobody's best. */
async function statedIn(checkpoint: string): Promise<Pick<ListedCheckpoint, 'evalLoss' | 'worldSize' | 'zero'>> {
  const text = await readFile(join(checkpoint, 'state.json'), 'utf8').catch(() => '');
  const { evalLoss, dist } = statedSchema.parse(objectIn(text));
  return { evalLoss, ...dist };
}

function objectIn(text: string): object {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null ? value : {};
  } catch {
    return {};
  }
}

/**
 * Which checkpoints are kept: the newest `keep`, and of the others the `best` of the lowest loss, of equal ones the
 * newest.
 *
 * @param found - the newest first
 */
export function keptCheckpoints(
  found: readonly Pick<ListedCheckpoint, 'name' | 'evalLoss'>[],
  { keep, best }: { keep: number; best: number },
): Map<string, KeptAs> {
  const others = found.slice(keep).flatMap(({ name, evalLoss }) => (evalLoss === null ? [] : [{ name, evalLoss }]));
  others.sort((a, b) => a.evalLoss - b.evalLoss); // stable
  return new Map([
    ...found.slice(0, keep).map(({ name }) => [name, 'newest'] as const),
    ...others.slice(0, best).map(({ name }) => [name, 'best'] as const),
  ]);
}
