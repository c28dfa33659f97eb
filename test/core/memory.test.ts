import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir, totalmem } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { type MemoryFiles, memoryRoom, memoryShare, residentBytes } from '../../src/core/memory.js';

const folder = mkdtempSync(join(tmpdir(), 'hadal-memory-'));
afterAll(() => rmSync(folder, { recursive: true }));

let count = 0;
/** Files of a machine with 8 GiB to be had, and these below the root of control groups. */
function files(groups: string, contents: Record<string, string>): MemoryFiles {
  const path = join(folder, `${count++}`);
  const all = { meminfo: 'MemTotal:       16777216 kB\nMemAvailable:    8388608 kB\n', groups, ...contents };
  for (const [name, text] of Object.entries(all)) {
    mkdirSync(join(path, name, '..'), { recursive: true });
    writeFileSync(join(path, name), text);
  }
  return { meminfo: join(path, 'meminfo'), groups: join(path, 'groups'), root: join(path, 'root') };
}

describe('the room in memory', () => {
  it('is what the machine has, where nothing limits it', () => {
    const none = files('0::/a\n', { 'root/a/memory.max': 'max\n' });
    expect(memoryRoom(none)).toEqual({ total: totalmem(), available: 8 * 2 ** 30 });
    expect(memoryRoom({ ...none, root: join(folder, 'nowhere') }).available).toBe(8 * 2 ** 30);
  });

  it('is that of the tightest group around the process, without what it keeps of files', () => {
    const room = memoryRoom(
      files('0::/a/b\n', {
        'root/a/memory.max': `${2 ** 30}\n`,
        'root/a/memory.current': `${700 * 2 ** 20}\n`,
        'root/a/memory.stat': `anon 5\ninactive_file ${100 * 2 ** 20}\n`,
        'root/a/b/memory.max': 'max\n',
        'root/a/b/memory.current': '1\n',
      }),
    );
    expect(room).toEqual({ total: 2 ** 30, available: 424 * 2 ** 20 });
  });

  it('is found where groups are of the first version', () => {
    const room = memoryRoom(
      files('9:name=systemd:/\n4:cpu,memory:/a\n0::/\n', {
        // A container sees its own group at the root, not under the name that it has outside.
        'root/memory/memory.limit_in_bytes': `${2 ** 30}\n`,
        'root/memory/memory.usage_in_bytes': `${2 ** 29}\n`,
        'root/memory/memory.stat': `inactive_file 5\ntotal_inactive_file ${2 ** 20}\n`,
      }),
    );
    expect(room).toEqual({ total: 2 ** 30, available: 2 ** 29 + 2 ** 20 });
  });

  it('is never below 0', () => {
    const full = files('0::/\n', { 'root/memory.max': '1000\n', 'root/memory.current': '1200\n' });
    expect(memoryRoom(full)).toEqual({ total: 1000, available: 0 });
    expect(memoryShare(full)).toBe(1);
  });
});

it('the share in use is that of the machine or the container', () => {
  const half = files('0::/\n', { 'root/memory.max': '1000\n', 'root/memory.current': '950\n' });
  expect(memoryShare(half)).toBeCloseTo(0.95, 12);
  expect(memoryShare()).toBeGreaterThan(0);
  expect(memoryShare()).toBeLessThan(1);
});

it('the process knows what it takes, and what it took at most', () => {
  const { now, peak } = residentBytes();
  expect(now).toBeGreaterThan(20 * 2 ** 20);
  if (process.platform === 'linux') expect(peak).toBeGreaterThanOrEqual(now - 2 ** 20);
});
