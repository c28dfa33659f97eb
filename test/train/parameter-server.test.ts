// A server and its workers as this process's own, over loopback; as processes of their own: parameter-server-processes.test.ts.

import { readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { resolveTrainConfig } from '../../src/train/config.js';
import type { TrainEvent } from '../../src/train/events.js';
import type { TrainOptions } from '../../src/train/options.js';
import { serve } from '../../src/train/parameter-server-serve.js';
import { work } from '../../src/train/parameter-server-work.js';
import { eventsOf, RunFolder, runAll } from './runs.js';

const folder = new RunFolder();
afterAll(() => folder.remove());

const token = 'a token of the tests alone';

/** A port that is free now. */
async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}

async function all(events: AsyncGenerator<TrainEvent>): Promise<TrainEvent[]> {
  const found: TrainEvent[] = [];
  for await (const event of events) found.push(event);
  return found;
}

/** A whole run: the server's events, and each worker's. */
async function served(options: TrainOptions, workers: number): Promise<TrainEvent[][]> {
  const address = { host: '127.0.0.1', port: await freePort(), token };
  const config = resolveTrainConfig(options);
  const own = Array.from({ length: workers }, () => all(work(config, address, undefined)));
  return Promise.all([all(serve(config, address, undefined)), ...own]);
}

const dist = (server: object = {}) => ({ mode: 'parameter-server' as const, server });
const losses = (events: TrainEvent[]) => eventsOf(events, 'step').map(({ loss }) => loss);
const serverLine = (run: string) => {
  const lines = readFileSync(join(run, 'metrics.jsonl'), 'utf8').trimEnd().split('\n');
  return (JSON.parse(lines.at(-1) as string) as { server: { accepted: number; staleness: number[] } }).server;
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
    expect(serverLine(options.out)).toMatchObject({ accepted: 8, staleness: [8] });
  });
});
