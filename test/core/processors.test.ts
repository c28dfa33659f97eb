import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { timeShare, usableProcessors } from '../../src/core/processors.js';

const folder = mkdtempSync(join(tmpdir(), 'hadal-groups-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** Files as the kernel has them, with `cpu.max` by group. */
function groups(of: string, limits: Record<string, string>): [string, string] {
  const root = mkdtempSync(join(folder, 'root-'));
  for (const [group, limit] of Object.entries(limits)) {
    mkdirSync(join(root, group), { recursive: true });
    writeFileSync(join(root, group, 'cpu.max'), limit);
  }
  writeFileSync(join(root, 'self'), of);
  return [join(root, 'self'), root];
}

describe('share of the processors', () => {
  it.each([
    ['of a container', '0::/\n', { '/': '200000 100000\n' }, 2],
    ['that is no whole number', '0::/\n', { '/': '50000 100000\n' }, 0.5],
    ['without a limit', '0::/\n', { '/': 'max 100000\n' }, Infinity],
    ['of a group within a smaller one', '0::/a/b\n', { '/a': '300000 100000\n', '/a/b': '800000 100000\n' }, 3],
    ['of a group without files', '0::/a/b\n', {}, Infinity],
    [
      'under the first version of groups',
      '4:cpu,cpuacct:/a\n1:name=systemd:/a\n',
      { '/a': '100000 100000\n' },
      Infinity,
    ],
  ])('%s', (_, of, limits, share) => {
    expect(timeShare(...groups(of, limits))).toBe(share);
  });

  it('is unlimited where there are no groups', () => {
    expect(timeShare(join(folder, 'none'), folder)).toBe(Infinity);
  });

  it('leaves at least one processor, and no more than there are', () => {
    expect(usableProcessors()).toBeGreaterThanOrEqual(1);
    expect(usableProcessors()).toBeLessThanOrEqual(availableParallelism());
  });
});
