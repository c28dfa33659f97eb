import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';

const child = fileURLToPath(new URL('./idle-threads.mjs', import.meta.url));

/** Milliseconds of processor time. */
function cpuMs(...args: string[]): number {
  const { OMP_WAIT_POLICY: _, ...env } = process.env; // this process has set it when it loaded the native code
  const { stdout, stderr } = spawnSync(process.execPath, [child, ...args], { encoding: 'utf8', env });
  expect(stderr).toBe('');
  return Number(stdout);
}

// Ten times as much, when they spun.
it('threads of a device do not spin between steps, neither in a worker', () => {
  const main = cpuMs();
  expect(main).toBeGreaterThan(1);
  // On a busy machine the first steps may be over before the threads are told.
  expect(Math.min(...Array.from({ length: 3 }, () => cpuMs('worker')))).toBeLessThan(4 * main);
});
