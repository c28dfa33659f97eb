import { readFileSync } from 'node:fs';

/** Bytes of mapped files that this process has in memory. Linux only. */
export function residentFileBytes(): number {
  const [, kilobytes] = /RssFile:\s+(\d+) kB/.exec(readFileSync('/proc/self/status', 'utf8')) ?? [];
  return Number(kilobytes) * 1024;
}
