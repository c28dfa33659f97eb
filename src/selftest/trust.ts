// The first use of a GPU: it is tested, once for each card, driver and version of hadal, before anything is computed on it.
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { loadAddon } from '../addon/addon.js';
import { HadalError } from '../core/errors.js';
import { version } from '../core/version.js';
import type { Device } from '../runtime/device.js';
import { type SelfTestResult, selfTest } from './selftest.js';

/** Kernels that a card got wrong, by what it is. */
type Known = Record<string, string[]>;

/**
 * Tests a GPU that this machine has not used yet: seconds. Kernels that it gets wrong are replaced by simpler ops from then
 * on. The processor needs no test; the simulated GPU has one where HADAL_CUDA_SELFTEST=1 asks for it, of any device and anew.
 *
 * @param cache - file of what is known of cards
 * @returns warnings
 * @throws HadalError HADAL_ERR_DEVICE where nothing can take a wrong kernel's place
 */
export async function trustDevice(device: Device, cache: string = cacheFile()): Promise<string[]> {
  const asked = process.env.HADAL_CUDA_SELFTEST;
  if (asked === '0' || device.target.backend === 'cpu' || (device.target.backend !== 'cuda' && asked !== '1'))
    return [];
  const key = keyOf(device);
  const known = await readKnown(cache);
  const suspects = (asked === '1' ? undefined : known[key]) ?? (await findSuspects(device));
  await writeKnown(cache, { ...known, [key]: suspects });
  device.distrust(suspects);
  if (suspects.length === 0) return [];
  return [
    `${device.name} gets kernels wrong, which simpler and slower ones replace: ${suspects.join(', ')}; hadal cuda-selftest says more. Please report it.`,
  ];
}

async function findSuspects(device: Device): Promise<string[]> {
  const before = await selfTest(device);
  const { suspects } = before;
  if (suspects.length === 0) return [];
  device.distrust(suspects);
  const { results } = await selfTest(device);
  if (results.every(({ failure }) => failure === null)) return suspects;
  // After an error the device may refuse everything: it began with the first one.
  const failed = [...before.results.filter(({ isError }) => isError), ...results];
  const still = failed.find(({ failure }) => failure !== null) as SelfTestResult;
  throw new HadalError(
    'HADAL_ERR_DEVICE',
    `[device] expected ${device.name} to compute what the CPU does, got a wrong '${still.name}' in ${still.dtype}: ${still.failure}; run hadal cuda-selftest and report it, or take device cpu`,
  );
}

function keyOf(device: Device): string {
  const { devices, libraries } = loadAddon().backend(device.target.backend);
  const { name } = devices[Number(device.name.split(':')[1] ?? 0)] ?? {};
  return [name, device.instructionSet, ...libraries, `hadal ${version}`].join('; ');
}

const cacheFile = (): string => join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'hadal', 'selftest.json');

/** What cannot be read is not known. */
async function readKnown(file: string): Promise<Known> {
  try {
    const found: unknown = JSON.parse(await readFile(file, 'utf8'));
    return typeof found === 'object' && found !== null ? (found as Known) : {};
  } catch {
    return {};
  }
}

/** Where it cannot be written, the next run tests again. */
async function writeKnown(file: string, known: Known): Promise<void> {
  try {
    await mkdir(dirname(file), { recursive: true });
    await writeFile(file, `${JSON.stringify(known, null, 1)}\n`);
  } catch {
    return;
  }
}
