import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';

const child = fileURLToPath(new URL('./idle-threads.mjs', import.meta.url));

/** Milliseconds of processor time. */
function cpuMs(args: string[] = [], variables: NodeJS.ProcessEnv = {}): number {
  const { stdout, stderr } = spawnSync(process.execPath, [child, ...args], {
    encoding: 'utf8',
    env: { ...process.env, ...variables },
  });
  expect(stderr).toBe('');
  return Number(stdout);
}

// Ten times as much, when they spun for good.
it('threads of a device spin but briefly between steps, also in a worker', () => {
  const asleep = cpuMs([], { GOMP_SPINCOUNT: '0' });
  expect(asleep).toBeGreaterThan(1);
  // The least of three: on a busy machine they wait longer for each other, and in a worker the first steps may be over
  // before the threads are told.
  const least = (args: string[]) => Math.min(...Array.from({ length: 3 }, () => cpuMs(args)));
  expect(least([])).toBeLessThan(4 * asleep);
  expect(least(['worker'])).toBeLessThan(4 * asleep);
});
