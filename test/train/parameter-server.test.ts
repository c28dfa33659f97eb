// A server and its workers as this process's own, over loopback; as processes of their own: parameter-server-processes.test.ts.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { joinWorld } from '../../src/dist/world.js';
import { resolveTrainConfig } from '../../src/train/config.js';
import type { TrainEvent } from '../../src/train/events.js';
import type { TrainOptions } from '../../src/train/options.js';
import { serve } from '../../src/train/parameter-server-serve.js';
import { work } from '../../src/train/parameter-server-work.js';
import { freePort } from '../support/free-port.js';
import { eventsOf, RunFolder, runAll } from './runs.js';

const folder = new RunFolder();
afterAll(() => folder.remove());

const token = 'a token of the tests alone';

async function all(events: AsyncGenerator<TrainEvent>): Promise<TrainEvent[]> {
  const found: TrainEvent[] = [];
  for await (const event of events) found.push(event);
  return found;
}

/** A whole run: the server's events, and each worker's. */
async function served(options: TrainOptions, workers: number): Promise<TrainEvent[][]> {
  const address = { host: '127.0.0.1', port: await freePort(), token };
  const config = resolveTrainConfig(options);
  const own = Array.from({ length: workers }, () => all(work(config, address, null, undefined)));
  return Promise.all([all(serve(config, address, undefined)), ...own]);
}

const dist = (server: object = {}) => ({ mode: 'parameter-server' as const, server });
const losses = (events: TrainEvent[]) => eventsOf(events, 'step').map(({ loss }) => loss);
const serverLine = (run: string) => {
  const lines = readFileSync(join(run, 'metrics.jsonl'), 'utf8').trimEnd().split('\n');
  return (JSON.parse(lines.at(-1) as string) as { server: { counts: { accepted: number }; staleness: number[] } })
    .server;
};

describe('a parameter server', () => {
  it('with staleness 0 and one worker trains as one process does', async () => {
    const common = { steps: 8, threads: 1 };
    const plain = await runAll(folder.options(common));
    const options = folder.options({ ...common, dist: dist({ staleness: 0 }) });
    const [events = []] = await served(options, 1);
    const [expected, got] = [losses(plain), losses(events)];
    expect(got).toHaveLength(8);
    for (const [i, loss] of got.entries()) expect(Math.abs(loss / (expected[i] as number) - 1)).toBeLessThan(1e-6);
    const [before, after] = [plain, events].map((each) => eventsOf(each, 'evaluation').map(({ evalLoss }) => evalLoss));
    expect(after).toHaveLength(2);
    for (const [i, loss] of (after as number[]).entries())
      expect(Math.abs(loss / (before?.[i] as number) - 1)).toBeLessThan(1e-6);
    expect(serverLine(options.out)).toMatchObject({ counts: { accepted: 8 }, staleness: [8] });
  });

  it('with staleness 0 and several workers trains as one process with as many micro-batches does', async () => {
    const common = { steps: 6, batch: 4, gradAccumulationSteps: 2, threads: 1 };
    const plain = await runAll(folder.options(common));
    const options = folder.options({ ...common, dist: dist({ staleness: 0 }) });
    const [events = []] = await served(options, 3);
    // Terms of the loss that are not means over all tokens are weighted by tokens, too.
    const expected = losses(plain);
    for (const [i, loss] of losses(events).entries())
      expect(Math.abs(loss / (expected[i] as number) - 1)).toBeLessThan(2e-3);
    expect(serverLine(options.out)).toMatchObject({ counts: { accepted: 12 }, staleness: [12] });
  });

  it('lets workers differ in age within the bound, pushes in 16 bits, and leaves a run that goes on in one process', async () => {
    const common = { steps: 40, threads: 1, checkpoint: { every: 16 } };
    const options = folder.options({ ...common, dist: dist({ staleness: 3, pushDtype: 'bf16' }) });
    const [events = [], ...workers] = await served(options, 3);
    expect(workers).toHaveLength(3);
    const { counts, staleness } = serverLine(options.out);
    expect(counts.accepted).toBe(40);
    expect(staleness.length).toBeLessThanOrEqual(4);
    const [before, after] = eventsOf(events, 'evaluation').map(({ evalLoss }) => evalLoss) as [number, number];
    expect(after).toBeLessThan(before - 1);
    // Checkpoints stand where everything before them is trained on, and nothing else.
    const cursors = [16, 32, 40].map((step) => {
      const name = `step-${String(step).padStart(8, '0')}`;
      if (step === 16) return null; // two are kept
      const state = JSON.parse(readFileSync(join(options.out, 'checkpoints', name, 'state.json'), 'utf8'));
      return (state as { cursor: { token: number } }).cursor.token;
    });
    expect(cursors).toEqual([null, 32 * 48, 40 * 48]);
    const { dist: _, ...alone } = options;
    const goesOn = await runAll({ ...alone, steps: 44, resume: true });
    expect(eventsOf(goesOn, 'start')[0]?.step).toBe(40);
    expect(eventsOf(goesOn, 'end')[0]?.evalLoss).toBeLessThan(before - 1);
  });

  it('ends at a step where nothing is missing when it is interrupted, and goes on from there', async () => {
    const options = folder.options({ steps: 200, threads: 1, dist: dist({ staleness: 4 }) });
    const config = resolveTrainConfig(options);
    const address = { host: '127.0.0.1', port: await freePort(), token };
    const workers = [1, 2].map(() => all(work(config, address, null, undefined)));
    const stop = new AbortController();
    const events: TrainEvent[] = [];
    const serving = (async () => {
      for await (const event of serve(config, address, stop.signal)) {
        events.push(event);
        if (event.type === 'step' && event.step === 20) stop.abort();
      }
    })();
    await expect(serving).rejects.toMatchObject({ code: 'HADAL_ERR_ABORTED' });
    await Promise.all(workers);
    const [saved] = eventsOf(events, 'checkpoint');
    expect(saved?.step).toBeGreaterThanOrEqual(20);
    expect(saved?.step).toBeLessThan(40);
    const state = JSON.parse(readFileSync(join(saved?.path as string, 'state.json'), 'utf8')) as {
      cursor: { token: number };
    };
    expect(state.cursor.token).toBe((saved?.step as number) * 48);
    const [goesOn = []] = await served({ ...options, steps: (saved?.step as number) + 4, resume: true }, 1);
    expect(losses(goesOn)).toHaveLength(4);
  });

  it('with two processes that are one worker trains as one process does', async () => {
    const common = { steps: 6, threads: 1 };
    const plain = await runAll(folder.options(common));
    const options = folder.options({ ...common, dist: dist({ staleness: 0 }) });
    const config = resolveTrainConfig(options);
    const address = { host: '127.0.0.1', port: await freePort(), token };
    const meeting = { host: '127.0.0.1', port: await freePort() };
    const box = [0, 1].map(async (rank) => {
      const place = {
        kind: 'static',
        launcher: 'the test',
        rank,
        size: 2,
        localRank: rank,
        localSize: 2,
        ...meeting,
      } as const;
      const world = await joinWorld({ place, token, hasThread: false });
      return await all(work(config, address, world, undefined));
    });
    const [events] = await Promise.all([all(serve(config, address, undefined)), ...box]);
    for (const [i, loss] of losses(events).entries()) {
      expect(Math.abs(loss / (losses(plain)[i] as number) - 1)).toBeLessThan(1e-5);
    }
    expect(serverLine(options.out)).toMatchObject({ counts: { accepted: 6, joined: 1 }, staleness: [6] });
  });

  it('refuses what has no meaning with it', async () => {
    process.env.HADAL_ROLE = 'worker';
    try {
      const run = (change: object) => runAll(folder.options({ dist: dist(), ...change }));
      await expect(run({ dtype: 'fp16' })).rejects.toThrow("field 'dtype'");
      await expect(run({})).rejects.toThrow('HADAL_SERVER');
      await expect(runAll(folder.options())).rejects.toThrow("field 'dist.mode' expected 'parameter-server'");
    } finally {
      delete process.env.HADAL_ROLE;
    }
  });
});
