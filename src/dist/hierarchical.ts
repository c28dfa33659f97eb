// The group of all ranks of a run, whose all-reduces go in two levels where several boxes have several ranks each.
import { readFile, readlink } from 'node:fs/promises';
import { hostname } from 'node:os';
import type { NativeProcessGroup } from '../addon/addon.js';
import { HadalError } from '../core/errors.js';
import { openProcessGroup, type ProcessGroupOptions } from './process-group.js';
import { boxesOf, defaultLeastBytes, type Hierarchy, hierarchyOf, type Place } from './topology.js';

/** Where this process runs. */
export async function thisPlace(): Promise<Place> {
  const [bootId, network] = await Promise.all([
    readFile('/proc/sys/kernel/random/boot_id', 'utf8').catch(() => ''), // not Linux: names tell hosts apart
    readlink('/proc/self/ns/net').catch(() => ''),
  ]);
  return { host: hostname(), bootId: bootId.trim(), network };
}

/** What `HADAL_COMM_HIERARCHY` says: bytes from which all-reduces go in two levels; null: none does. */
export function leastBytesFrom(text: string | undefined): number | null {
  if (text === undefined || text === '' || text === 'auto') return defaultLeastBytes;
  if (text === 'off') return null;
  if (/^\d{1,15}$/.test(text)) return Number(text);
  throw new HadalError(
    'HADAL_ERR_CONFIG',
    `[comm] expected HADAL_COMM_HIERARCHY to be auto, off or bytes, got '${text}'`,
  );
}

export interface WholeGroupOptions extends Omit<ProcessGroupOptions, 'exchange'> {
  /** What every rank gives, by rank; see `World.gather`. */
  gather<T>(name: string, value: T): Promise<T[]>;
  /** Where this process runs; default: as the system says. */
  place?: Place;
  /** Bytes from which all-reduces go in two levels, null: none does; rank 0's counts. Default: `HADAL_COMM_HIERARCHY`. */
  leastBytes?: number | null;
}

/**
 * The group of all ranks. Disposing it ends what it is made of.
 *
 * @throws HadalError HADAL_ERR_COMM as {@link openProcessGroup} does, HADAL_ERR_CONFIG
 */
export async function openWholeGroup({
  gather,
  place,
  leastBytes = leastBytesFrom(process.env.HADAL_COMM_HIERARCHY),
  ...options
}: WholeGroupOptions): Promise<NativeProcessGroup> {
  const { rank } = options;
  const claims = await gather('places', { place: place ?? (await thisPlace()), leastBytes });
  const least = claims[0]?.leastBytes ?? null;
  const boxes = boxesOf(claims.map((claim) => claim.place));
  const hierarchy = least === null ? null : hierarchyOf(boxes, least);

  const among = (name: string, ranks: readonly number[]) =>
    openProcessGroup({
      ...{ ...options, rank: ranks.indexOf(rank), size: ranks.length },
      exchange: async (address) => {
        const all = await gather(`${name} addresses`, Buffer.from(address).toString('base64'));
        return ranks.map((member) => Buffer.from(all[member] as string, 'base64'));
      },
    });

  const all = await among(
    'all',
    Array.from(claims, (_, member) => member),
  );
  if (!hierarchy) return all;
  try {
    const { box, across } = levelsOf(hierarchy, rank);
    all.useLevels(await among('box', box), await among('across', across), hierarchy.leastBytes);
    return all;
  } catch (error) {
    all.dispose();
    throw error;
  }
}

/** The ranks of this one's box, and those with its place in their boxes. */
export function levelsOf({ boxes }: Hierarchy, rank: number): { box: readonly number[]; across: number[] } {
  const box = boxes.find((ranks) => ranks.includes(rank)) as readonly number[];
  const place = box.indexOf(rank);
  return { box, across: boxes.map((ranks) => ranks[place] as number) };
}
