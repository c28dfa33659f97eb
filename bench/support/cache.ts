import { readdirSync, readFileSync } from 'node:fs';

/** Linux tells; elsewhere 32 MiB are assumed. */
export function lastLevelCacheBytes(): number {
  const folder = '/sys/devices/system/cpu/cpu0/cache';
  try {
    const sizes = readdirSync(folder)
      .filter((name) => name.startsWith('index'))
      .map((name) => Number.parseInt(readFileSync(`${folder}/${name}/size`, 'utf8'), 10) * 1024);
    return Math.max(...sizes);
  } catch {
    return 32 * 2 ** 20;
  }
}

/** Rows that in bf16 take four times the last-level cache: what a kernel does with them, memory must follow. */
export function rowsBeyondCache(dim: number): number {
  return Math.ceil((4 * lastLevelCacheBytes()) / (2 * dim) / 64) * 64;
}
