// The launcher, with processes that train nothing: what they write, what they are told, and how a run goes on and ends.
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { withoutOption } from '../../src/cli/run-launch.js';
import { launchSettings } from '../../src/dist/launcher-settings.js';
import { freePort } from '../support/free-port.js';
import { startRelay } from '../support/relay.js';

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
const script = fileURLToPath(new URL('./launched.mjs', import.meta.url));
let directory = '';
const running: Launch[] = [];
const children: ChildProcess[] = [];

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'hadal-launch-'));
});

afterEach(() => {
  for (const launch of running.splice(0)) launch.kill();
  for (const child of children.splice(0)) child.kill('SIGKILL');
  rmSync(directory, { recursive: true, force: true });
});

/** A launcher under way. */
class Launch {
  readonly child: ChildProcess;
  output = '';
  readonly ended: Promise<{ status: number | null; output: string }>;

  constructor(flags: readonly string[], words: readonly string[], env: NodeJS.ProcessEnv = {}) {
    this.child = spawn(process.execPath, [main, 'launch', ...flags, '--', ...words], {
      env: { ...process.env, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const onText = (text: string): void => {
      this.output += text;
    };
    this.child.stdout?.setEncoding('utf8').on('data', onText);
    this.child.stderr?.setEncoding('utf8').on('data', onText);
    this.ended = new Promise((resolve) => {
      this.child.on('close', (status) => resolve({ status, output: this.output }));
    });
    running.push(this);
  }

  /** Waits until so many lines say it. */
  async says(pattern: RegExp, times = 1): Promise<void> {
    const all = new RegExp(pattern.source, 'g');
    const end = performance.now() + 20_000;
    while ((this.output.match(all) ?? []).length < times) {
      if (performance.now() > end || this.child.exitCode !== null) throw new Error(`no ${pattern} in:\n${this.output}`);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  /** Of its processes so far, those that still run. */
  pids(): number[] {
    const pids = [...this.output.matchAll(/ pid (\d+)/g)].map(([, pid]) => Number(pid));
    return pids.filter((pid) => {
      try {
        return process.kill(pid, 0);
      } catch {
        return false;
      }
    });
  }

  kill(): void {
    const pids = this.pids();
    for (const pid of pids) process.kill(pid, 'SIGKILL');
    if (this.child.exitCode === null) this.child.kill('SIGKILL');
  }
}

const launch = (flags: string[], words: string[], env: NodeJS.ProcessEnv = {}): Launch =>
  new Launch(flags, [process.execPath, script, ...words], env);
/** Words of processes that train until {@link finish}. */
const until = (): string[] => ['--steps', '1000000', '--until', join(directory, 'finish')];
const finish = (): void => writeFileSync(join(directory, 'finish'), '');
const once = (): string[] => ['--once', join(directory, 'once')];

test('processes know their places, and their lines their rank', async () => {
  const logs = join(directory, 'logs');
  const { status, output } = await launch(['--nproc', '2', '--log-dir', logs], ['--steps', '3']).ended;
  expect(status, output).toBe(0);
  for (const rank of [0, 1]) {
    expect(output).toContain(`joined ${rank}/2 local ${rank}/2`);
    expect(output).toContain(`[rank ${rank}] done at 3 of 2`);
    expect(readFileSync(join(logs, `host-0-process-${rank}.log`), 'utf8')).toMatch(
      /^joined .*\n(.*\n)*done at 3 of 2\n$/,
    );
  }
  expect(output).not.toContain('lost');
});

test('a command of hadal is one; what it prints for machines has no ranks, and its processes share the processors', async () => {
  const { status, output } = await new Launch(['--nproc', '2', '--threads', '3'], ['doctor', '--json']).ended;
  expect(status, output).toBe(0);
  const found = output.split('\n').filter((line) => line.startsWith('{') || line.startsWith('['));
  expect(found.length).toBeGreaterThan(1);
  expect(output.match(/, 3 threads/g)).toHaveLength(2);
});

test.each([
  ['killed', 'kill', 'was ended by SIGKILL'],
  ['failing', '1', 'ended with status 1'],
])('one that is %s is replaced; the others go on from where they were', async (_, how, reason) => {
  const run = launch(['--nproc', '3'], ['--steps', '12', '--fail', `0:5:${how}`, ...once()]);
  const { status, output } = await run.ended;
  expect(status, output).toBe(0);
  expect(output).toContain(`[launch] rank 0 ${reason}; starting it again (1 of 3 restarts)`);
  expect(output.match(/over: .*rank 0 \(.*\) was lost/g)).toHaveLength(2);
  // A survivor is rank 0 now, and nobody counts from 0.
  expect(output).toMatch(/round 1 rank 0 of 3 from 5, had 5,5,-1|round 1 rank 0 of 3 from 5, had 5,-1,5/);
  expect(output.match(/done at 12 of 3/g)).toHaveLength(3);
  expect(run.pids()).toEqual([]);
});

test('one that is stopped is found out, killed and replaced', async () => {
  const flags = ['--nproc', '2', '--heartbeat-timeout', '1'];
  const { status, output } = await launch(flags, ['--steps', '12', '--fail', '1:5:stop', ...once()]).ended;
  expect(status, output).toBe(0);
  expect(output).toContain('rank 1 was ended by SIGKILL');
  expect(output).toContain('nothing heard of it for 1 s');
  expect(output.match(/done at 12 of 2/g)).toHaveLength(2);
});

test('one whose main thread is busy is not lost', async () => {
  const flags = ['--nproc', '2', '--heartbeat-timeout', '0.5'];
  const { status, output } = await launch(flags, ['--steps', '2', '--busy', '800']).ended;
  expect(status, output).toBe(0);
  expect(output).not.toContain('lost');
});

test('one that does not come to the next round is replaced, too', async () => {
  // Rank 1 is busy for far longer than the others wait for it.
  const flags = ['--nproc', '2', '--round-timeout', '1'];
  const words = ['--steps', '6', '--fail', '0:2:kill', '--fail', '1:2:busy', ...once()];
  const { status, output } = await launch(flags, words).ended;
  expect(status, output).toBe(0);
  expect(output).toContain('it did not come to the next round within 1 s');
  expect(output.match(/done at 6 of 2/g)).toHaveLength(2);
});

test('restarts are limited; then the run fails with the status of the process, or goes on with fewer', async () => {
  const fails = launch(['--nproc', '2', '--max-restarts', '1'], ['--fail', '1:2:7']).ended;
  const goesOn = launch(['--nproc', '3', '--max-restarts', '0', '--min-nproc', '2'], ['--fail', '2:2:7']).ended;
  const [failed, went] = await Promise.all([fails, goesOn]);
  expect(failed.status, failed.output).toBe(7);
  expect(failed.output.match(/starting it again/g)).toHaveLength(1);
  expect(failed.output).toContain('rank 1 (');
  expect(failed.output).toContain('failed: it ended with status 7; its 1 restarts (--max-restarts) are used up');
  expect(went.status, went.output).toBe(0);
  expect(went.output.match(/done at 10 of 2/g)).toHaveLength(2);
});

test.each([2, 3])('status %i, of usage or data, ends the run at once, and is told once', async (status) => {
  const run = await launch(['--nproc', '3'], ['--early', String(status)]).ended;
  expect(run.status, run.output).toBe(status);
  expect(run.output.match(/hadal: \[config\] field 'x' expected y, got z/g)).toHaveLength(1);
  expect(run.output).not.toContain('starting it again');
});

test('a program that is not there is told once', async () => {
  const { status, output } = await new Launch(['--nproc', '2'], ['./no-such-program']).ended;
  expect(status, output).toBe(2);
  expect(output.match(/expected to start '.\/no-such-program'/g)).toHaveLength(1);
});

test.each(['SIGINT', 'SIGTERM'] as const)('%s is passed on: the run saves and ends with 130', async (signal) => {
  const run = launch(['--nproc', '2'], ['--steps', '1000', '--save']);
  await run.says(/round 0 rank/, 2);
  run.child.kill(signal);
  const { status, output } = await run.ended;
  expect(status, output).toBe(130);
  expect(output.match(/\] saved/g)).toHaveLength(2);
  expect(output).not.toContain('starting it again');
});

test('a second signal ends all processes at once', async () => {
  // These do not end by themselves: they heed signals, but are busy.
  const run = launch(['--nproc', '2'], ['--steps', '1000', '--save', '--busy', '60000']);
  await run.says(/round 0 rank/, 2);
  run.child.kill('SIGINT');
  await run.says(/stopping/);
  await new Promise((resolve) => setTimeout(resolve, 600));
  run.child.kill('SIGINT');
  const { status, output } = await run.ended;
  expect(status, output).toBe(130);
  expect(run.pids()).toEqual([]);
});

test('a host that is interrupted does not wait for the first one, nor come back to it', async () => {
  const port = await freePort();
  const host = (rank: number): Launch =>
    launch(
      ['--nproc', '1', '--nnodes', '1:2', '--node-rank', String(rank), '--rendezvous', `127.0.0.1:${port}`],
      ['--steps', '1000000', '--busy', '60000'],
      { HADAL_TOKEN: 'a secret of sixteen characters or more' },
    );
  const early = host(1);
  // Its signals are heeded from when it tries to connect.
  await new Promise((resolve) => setTimeout(resolve, 1000));
  early.child.kill('SIGINT');
  expect(await early.ended).toMatchObject({ status: 130 });

  const [first, second] = [host(0), host(1)];
  await second.says(/round 0 rank/);
  second.child.kill('SIGINT');
  await new Promise((resolve) => setTimeout(resolve, 600));
  second.child.kill('SIGINT');
  const { status, output } = await second.ended;
  expect(status, output).toBe(130);
  expect(output.match(/ pid /g), output).toHaveLength(1);
  expect(output).not.toContain('host 0 is lost');
  first.kill();
});

test('processes of a launcher that is killed end by themselves', async () => {
  const run = launch(['--nproc', '2'], ['--steps', '100000']);
  await run.says(/round 0 rank/, 2);
  run.child.kill('SIGKILL');
  const end = performance.now() + 10_000;
  while (run.pids().length > 0 && performance.now() < end) await new Promise((resolve) => setTimeout(resolve, 20));
  expect(run.pids()).toEqual([]);
});

test('hosts meet, one that is lost comes back, another joins, within the range of --nnodes', async () => {
  const port = await freePort();
  const env = { HADAL_TOKEN: 'a secret of sixteen characters or more' };
  const host = (rank: number): Launch =>
    launch(
      ['--nproc', '1', '--nnodes', '2:3', '--node-rank', String(rank), '--rendezvous', `127.0.0.1:${port}`],
      until(),
      env,
    );
  const [first, second] = [host(0), host(1)];
  await first.says(/round 0: 2 processes on 2 hosts/);
  await second.says(/round 0 rank 1 of 2/);
  const third = host(2);
  await first.says(/round 1: 3 processes on 3 hosts/);
  await third.says(/round 1 rank 2 of 3/);
  second.kill();
  await first.says(/round 2: 2 processes on 2 hosts/);
  const again = host(1);
  await first.says(/round 3: 3 processes on 3 hosts/);
  finish();
  const ended = await Promise.all([first, third, again].map((run) => run.ended));
  for (const { status, output } of ended) {
    expect(status, output).toBe(0);
    expect(output).toMatch(/done at \d+ of 3/);
  }
});

test('a host that loses the first one ends its processes and comes back', async () => {
  const port = await freePort();
  const env = { HADAL_TOKEN: 'a secret of sixteen characters or more' };
  const host = (rank: number): Launch =>
    launch(
      ['--nproc', '1', '--nnodes', '2', '--node-rank', String(rank), '--rendezvous', `127.0.0.1:${port}`],
      until(),
      env,
    );
  const [first, second] = [host(0), host(1)];
  await second.says(/round 0 rank 1 of 2/);
  first.kill();
  await second.says(/host 0 is lost/);
  const again = host(0);
  await again.says(/round 0: 2 processes on 2 hosts/);
  finish();
  for (const run of [again, second]) {
    const { status, output } = await run.ended;
    expect(status, output).toBe(0);
    expect(output).toMatch(/done at \d+ of 2/);
  }
});

test('a host whose network is cut ends its processes, and comes back when it is mended', async () => {
  const port = await freePort();
  await using relay = await startRelay({ to: { host: '127.0.0.1', port } });
  const env = { HADAL_TOKEN: 'a secret of sixteen characters or more' };
  const host = (rank: number, at: number): Launch =>
    launch(
      [
        ...['--nproc', '1', '--nnodes', '2', '--node-rank', String(rank), '--rendezvous', `127.0.0.1:${at}`],
        ...['--heartbeat-timeout', '1'],
      ],
      until(),
      env,
    );
  const first = host(0, port);
  const second = host(1, relay.ports[0] as number);
  await second.says(/round 0 rank 1 of 2/);
  relay.set({ isCut: true });
  await first.says(/over: .*rank 1 \(.*\) was lost.*: nothing heard of it for 1 s/);
  await second.says(/host 0 is lost: nothing heard of it for 1 s/);
  relay.set({ isCut: false });
  await first.says(/round 1: 2 processes on 2 hosts/);
  finish();
  for (const run of [first, second]) {
    const { status, output } = await run.ended;
    expect(status, output).toBe(0);
    expect(output).toMatch(/done at \d+ of 2/);
  }
});

test('processes of another launcher find each other by its variables; a killed one ends the others within seconds', async () => {
  const MASTER_PORT = String(await freePort());
  const runs = [0, 1, 2].map((rank) => {
    const place = { RANK: String(rank), WORLD_SIZE: '3', MASTER_ADDR: '127.0.0.1', MASTER_PORT };
    const env = { ...process.env, HADAL_TOKEN: 'a secret of sixteen characters or more', ...place };
    const child = spawn(process.execPath, [script, '--steps', '1000', '--fail', '1:3:kill'], { env, stdio: 'pipe' });
    let output = '';
    for (const stream of [child.stdout, child.stderr])
      stream.setEncoding('utf8').on('data', (text) => (output += text));
    children.push(child);
    return new Promise<{ status: number | null; output: string; ms: number }>((resolve) => {
      child.on('close', (status) => resolve({ status, output, ms: performance.now() }));
    });
  });
  const [zero, one, two] = await Promise.all(runs);
  for (const run of [zero, two]) {
    expect(run?.status, run?.output).toBe(1);
    expect(run?.output).toMatch(/over: .*rank 1 \(.*\) was lost: the connection was closed by the other side/);
    expect(run?.output).toContain('expected a run of hadal launch');
    expect((run?.ms as number) - (one?.ms as number)).toBeLessThan(5000);
  }
});

test('several hosts need a secret', async () => {
  const flags = ['--nnodes', '2', '--node-rank', '0', '--rendezvous', '127.0.0.1:4000'];
  const { status, output } = await launch(flags, [], { HADAL_TOKEN: '' }).ended;
  expect(status).toBe(2);
  expect(output).toMatch(/expected HADAL_TOKEN.*openssl rand/);
});

const defaults = {
  processes: 1,
  nodes: { min: 1, max: 1 },
  nodeRank: 0,
  rendezvous: null,
  maxRestarts: 3,
  minProcesses: null,
};
const slurm = {
  SLURM_STEP_ID: '0',
  SLURM_JOB_ID: '10',
  SLURM_NNODES: '2',
  SLURM_NODEID: '1',
  SLURM_JOB_NODELIST: 'n[4-5]',
};

test.each<[string, object, Record<string, string>, object]>([
  ['nothing', {}, {}, {}],
  ['one host', { nproc: 4, maxRestarts: 0, minNproc: 2 }, {}, { processes: 4, maxRestarts: 0, minProcesses: 2 }],
  [
    'a range of hosts',
    { nnodes: '1:4', nodeRank: 7, rendezvous: '[::1]:80' },
    {},
    { nodes: { min: 1, max: 4 }, nodeRank: 7, rendezvous: { host: '::1', port: 80 } },
  ],
  [
    'a PyTorchJob',
    {},
    { PET_NNODES: '2', PET_NODE_RANK: '1', PET_NPROC_PER_NODE: '4', MASTER_ADDR: 'job-master-0', MASTER_PORT: '23456' },
    { processes: 4, nodes: { min: 2, max: 2 }, nodeRank: 1, rendezvous: { host: 'job-master-0', port: 23456 } },
  ],
  [
    'an elastic PyTorchJob',
    { nodeRank: 2 },
    { PET_NNODES: '1:3', PET_RDZV_ENDPOINT: 'job-worker-0:29400', PET_NPROC_PER_NODE: 'auto', PET_MAX_RESTARTS: '10' },
    { nodes: { min: 1, max: 3 }, nodeRank: 2, rendezvous: { host: 'job-worker-0', port: 29400 }, maxRestarts: 10 },
  ],
  [
    'a Slurm step of one task a node',
    { nproc: 8 },
    { ...slurm, SLURM_NTASKS: '2' },
    { processes: 8, nodes: { min: 2, max: 2 }, nodeRank: 1, rendezvous: { host: 'n4', port: 15_310 } },
  ],
])('settings from %s', (_, flags, env, expected) => {
  expect(launchSettings(flags, env)).toEqual({ ...defaults, ...expected });
});

test.each<[object, Record<string, string>, RegExp]>([
  [{ nnodes: '2' }, {}, /expected --node-rank/],
  [{ nnodes: '2', nodeRank: 0 }, {}, /expected --rendezvous/],
  [{ nnodes: '2', nodeRank: 2, rendezvous: 'a:1' }, {}, /--node-rank below 2/],
  [{ nnodes: '3:2' }, {}, /--nnodes.*'3:2'/],
  [{ nnodes: '0' }, {}, /--nnodes/],
  [{ nnodes: '2', nodeRank: 0, rendezvous: 'a:b' }, {}, /host:port, got 'a:b'/],
  [{ nnodes: '2', nodeRank: 0, rendezvous: 'a:70000' }, {}, /host:port/],
  [{}, { PET_NPROC_PER_NODE: 'x' }, /PET_NPROC_PER_NODE/],
  [{}, { ...slurm, SLURM_NTASKS: '8' }, /--ntasks-per-node=1/],
])('settings that make no sense: %j', (flags, env, message) => {
  expect(() => launchSettings(flags, env)).toThrow(message);
});

test('the words of `train --nproc` without it', () => {
  expect(withoutOption(['train', '--nproc', '2', '--out', 'x'], '--nproc')).toEqual(['train', '--out', 'x']);
  expect(withoutOption(['train', '--out', 'x', '--nproc=2'], '--nproc')).toEqual(['train', '--out', 'x']);
});
