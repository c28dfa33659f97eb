import { spawnSync } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { loadAddon } from '../../src/addon/addon.js';

const child = fileURLToPath(new URL('./threads.mjs', import.meta.url));

/** Threads of a process, with the processors each may use. */
type Threads = Record<string, string>;

function observe(threads: number, pinThreads: boolean, env: NodeJS.ProcessEnv = {}) {
  const { stdout, stderr } = spawnSync(process.execPath, [child, JSON.stringify([threads, pinThreads])], {
    encoding: 'utf8',
    env: { ...process.env, ...env },
  });
  if (stdout === '') return { error: /HadalError: (.*)/.exec(stderr)?.[1] ?? stderr };
  const { before, first, last } = JSON.parse(stdout) as Record<'before' | 'first' | 'last', Threads>;
  const added = ([thread]: [string, string]) => !(thread in before);
  return { first: Object.entries(first).filter(added), last: Object.entries(last).filter(added) };
}

const processors = availableParallelism();

it('programs that are started do not inherit how threads wait', () => {
  const before = { ...process.env };
  loadAddon();
  expect(process.env).toEqual(before);
});

describe.skipIf(process.platform !== 'linux')('a device', () => {
  // Four, more than a kernel of two shares needs: OpenMP ends the threads that a region leaves out.
  it.each([1, 2, 4])('with %i threads has these, the same in every kernel', (threads) => {
    const { first, last } = observe(threads, false);
    expect(first).toHaveLength(threads);
    expect(last).toEqual(first);
  });

  it('has each of its threads on a processor of its own when they are pinned', () => {
    const { first, last } = observe(processors, true);
    expect(last).toEqual(first);
    const allowed = last?.map(([, list]) => list) ?? [];
    expect(allowed).toHaveLength(processors);
    expect(new Set(allowed).size).toBe(processors);
    for (const list of allowed) expect(list).toMatch(/^\d+$/);
  });

  it('refuses more pinned threads than there are processors', () => {
    expect(observe(processors + 1, true).error).toBe(
      `[device] expected at most ${processors} pinned threads (the processors this process may use), got ${processors + 1}`,
    );
  });

  it('refuses more threads than OpenMP grants', () => {
    expect(observe(2, false, { OMP_THREAD_LIMIT: '1' }).error).toBe(
      '[device] expected at most 1 threads (OMP_THREAD_LIMIT), got 2',
    );
  });
});
