// A server and workers as processes, of which one is slow, one is killed, one is stopped for longer than its lease, and one comes.
import { type ChildProcess, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, expect, it } from 'vitest';
import { verifyManifest } from '../../src/formats/manifest.js';
import { openModelSource } from '../../src/session/model-source.js';
import { RunFolder } from './runs.js';

const folder = new RunFolder();
const children: ChildProcess[] = [];
afterAll(() => {
  for (const child of children) child.kill('SIGKILL');
  folder.remove();
});

const program = `
  import { train } from ${JSON.stringify(new URL('../../dist/train/train.js', import.meta.url).href)};
  for await (const event of train(JSON.parse(process.argv[1]))) console.log(JSON.stringify(event));`;

interface Event {
  type: string;
  step: number;
  message?: string;
  evalLoss?: number;
  checkpoint?: string;
}

/** A process of the run; `events` are those that it has told so far. */
function start(role: 'server' | 'worker', port: number, options: object) {
  const root = fileURLToPath(new URL('../..', import.meta.url));
  const env = {
    ...process.env,
    HADAL_ROLE: role,
    HADAL_SERVER: `127.0.0.1:${port}`,
    HADAL_TOKEN: 'a token of the tests alone',
  };
  const args = ['--input-type=module', '--eval', program, JSON.stringify(options)];
  const child = spawn(process.execPath, args, { cwd: root, env, stdio: ['ignore', 'pipe', 'inherit'] });
  children.push(child);
  const events: Event[] = [];
  let rest = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    const lines = (rest + text).split('\n');
    rest = lines.pop() as string;
    events.push(...lines.map((line) => JSON.parse(line) as Event));
  });
  const ended = new Promise<number | string | null>((resolve) => {
    child.on('close', (status, signal) => resolve(status ?? signal));
  });
  return { child, events, ended };
}

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

it('goes on while workers are slow, killed, stopped and come, and trains on everything once', async () => {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  const leaseMs = 1500;
  const dist = { mode: 'parameter-server', server: { staleness: 6, lease: leaseMs / 1000 } };
  const options = folder.options({ steps: 400, threads: 1, dist: dist as object });

  const { events, ended } = start('server', port, options);
  const workers = [1, 2, 3].map(() => start('worker', port, options));
  const [slow, killed, stopped] = workers as [(typeof workers)[0], (typeof workers)[0], (typeof workers)[0]];
  const step = () => Math.max(0, ...events.filter(({ type }) => type === 'step').map((event) => event.step));
  const until = async (condition: () => boolean) => {
    while (!condition()) await sleep(5);
  };
  const warned = (words: string) => events.filter(({ message }) => message?.includes(words)).length;
  await until(() => warned('joined') === 3);
  // A quarter of the time.
  let isSlow = true;
  const slowly = (async () => {
    while (isSlow) {
      slow.child.kill('SIGSTOP');
      await sleep(30);
      slow.child.kill('SIGCONT');
      await sleep(10);
    }
  })();
  const from = step();
  await until(() => step() >= from + 20);
  killed.child.kill('SIGKILL');
  expect(await killed.ended).toBe('SIGKILL');
  stopped.child.kill('SIGSTOP');
  await until(() => warned('gave no sign of life') === 2);
  // One is left, and the slow one at that: the run went on.
  const alone = step();
  await until(() => step() >= alone + 5);
  stopped.child.kill('SIGCONT');
  const another = start('worker', port, options);
  expect(await ended).toBe(0);
  isSlow = false;
  await slowly;
  expect(await Promise.all([slow.ended, stopped.ended, another.ended])).toEqual([0, 0, 0]);

  expect(warned('joined')).toBeGreaterThanOrEqual(5);
  const lines = readFileSync(join(options.out, 'metrics.jsonl'), 'utf8').trimEnd().split('\n');
  const { counts } = JSON.parse(lines.at(-1) as string).server as { counts: Record<string, number> };
  expect(counts).toMatchObject({ accepted: 400 });
  expect(counts.expired).toBeGreaterThanOrEqual(2);
  const [first, last] = events.filter(({ evalLoss, type }) => type === 'evaluation' && evalLoss !== undefined);
  expect(last?.evalLoss).toBeLessThan((first?.evalLoss as number) - 1);
  const checkpoint = events.find(({ type }) => type === 'end')?.checkpoint as string;
  await verifyManifest(checkpoint);
  expect((await openModelSource(checkpoint)).model.vocabSize).toBe(280);
});
