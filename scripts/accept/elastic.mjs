// A run of three hosts of one process each goes on by itself when a process is killed, stopped or cut off from the others, and
// ends with the loss of an undisturbed one.
//
//   npm run accept -- elastic [faults=20] [seed=time]
//
// Hosts are network namespaces, each with a launcher; where these are not allowed, one launcher has all processes, and no
// network is cut.
import '../../bench/support/typescript.mjs';
import { execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { generator } from './support/killed-run.mjs';

const { canMakeNetworks, makeNetwork } = await import('../../test/support/network.ts');
const cli = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));

const faults = Number(process.argv[2] ?? 20);
const seed = Number(process.argv[3] ?? Date.now() % 2 ** 31);
const random = generator(seed);
const steps = 150 * faults;
const processes = 3;
const limitMs = 30_000;
const folder = mkdtempSync(join(tmpdir(), 'hadal-elastic-'));
const token = randomBytes(16).toString('hex');
const network = canMakeNetworks() ? await makeNetwork({ hosts: processes }) : null;

/** The launchers of a run, and what it has written so far. */
class ElasticRun {
  out;
  #nodes = [];

  constructor(name) {
    this.out = join(folder, name);
    for (let node = 0; node < (network ? processes : 1); node++) this.startNode(node);
  }

  startNode(node) {
    const set = [
      'batch=384',
      'evaluation.every=0',
      'optimizer.lr=2e-4',
      'checkpoint.every=25',
      'dist.timeout=20',
      `data.cache=${folder}/data`,
    ];
    const train = [
      ...[
        'train',
        '--preset',
        'test',
        '--steps',
        steps,
        '--dtype',
        'fp32',
        '--threads',
        1,
        '--out',
        this.out,
        '--resume',
      ],
      ...set.flatMap((pair) => ['--set', pair]),
    ];
    const hosts = network
      ? [
          '--nproc',
          1,
          '--nnodes',
          `2:${processes}`,
          '--node-rank',
          node,
          '--rendezvous',
          `${network.hosts[0].address}:29500`,
        ]
      : ['--nproc', processes];
    const elastic = ['--max-restarts', 10 * faults, '--heartbeat-timeout', 3, '--round-timeout', 10];
    const args = [cli, 'launch', ...hosts, ...elastic, '--', ...train].map(String);
    const log = openSync(`${this.out}-${node}.log`, 'a');
    const options = { env: { ...process.env, HADAL_TOKEN: token }, stdio: ['ignore', log, log] };
    const [file, all] = network ? network.hosts[node].command(process.execPath, args) : [process.execPath, args];
    const child = spawn(file, all, options);
    this.#nodes[node] = child;
    child.ended = new Promise((resolve) => child.on('close', (status, signal) => resolve(status ?? signal)));
  }

  /** Lines of metrics.jsonl; the last may be cut off. */
  lines() {
    const path = join(this.out, 'metrics.jsonl');
    if (!existsSync(path)) return [];
    return readFileSync(path, 'utf8')
      .split('\n')
      .flatMap((line) => {
        try {
          return [JSON.parse(line)];
        } catch {
          return [];
        }
      });
  }

  last() {
    return this.lines().findLast(({ loss }) => loss !== undefined) ?? { step: 0, world: { round: 0, size: 0 } };
  }

  get hasEnded() {
    return this.#nodes[0].exitCode !== null || this.#nodes[0].signalCode !== null;
  }

  async until(condition, timeoutMs = 120_000) {
    const begin = performance.now();
    while (!condition(this.last())) {
      if (performance.now() - begin > timeoutMs || this.hasEnded) return null;
      await sleep(20);
    }
    return performance.now() - begin;
  }

  async end() {
    const status = await this.#nodes[0].ended;
    if (status !== 0)
      throw new Error(`the run ended with ${status}:\n${readFileSync(`${this.out}-0.log`, 'utf8').slice(-3000)}`);
  }

  kill() {
    for (const child of this.#nodes) child.kill('SIGKILL');
    for (const { pid } of workers(this.out)) process.kill(pid, 'SIGKILL');
  }
}

/** Processes that train. */
function workers(out) {
  return readdirSync('/proc').flatMap((pid) => {
    try {
      const words = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
      if (!words.includes('train') || words.includes('launch') || !words.includes(out)) return [];
      return [{ pid: Number(pid), host: namespaceOf(pid) }];
    } catch {
      return []; // no process, or gone
    }
  });
}

const namespaceOf = (pid) =>
  network ? execFileSync('ip', ['netns', 'identify', pid], { encoding: 'utf8' }).trim() : '';

/** @returns what was done, and what undoes it */
function strike(run) {
  const kinds = ['kill -9', 'SIGSTOP', ...(network ? ['cut network'] : [])];
  const kind = kinds[Math.floor(random() * kinds.length)];
  if (kind === 'cut network') {
    // Host 0 has the rendezvous: a run whose meeting place is cut off has nowhere to go on.
    const node = 1 + Math.floor(random() * (processes - 1));
    network.cut(node);
    // Once the cable is mended, its launcher comes back by itself.
    return { kind: `${kind} of host ${node}`, undo: () => network.mend(node) };
  }
  const found = workers(run.out);
  if (found.length === 0)
    throw new Error(`expected processes that train, found none; ${run.last().step} updates are done`);
  const { pid, host } = found[Math.floor(random() * found.length)];
  process.kill(pid, kind === 'SIGSTOP' ? 'SIGSTOP' : 'SIGKILL');
  return { kind: `${kind} of ${pid}${host && ` on host ${host.split('-').at(-1)}`}`, undo: () => {} };
}

console.log(
  `elastic: ${faults} faults, seed ${seed}, ${steps} steps, ${network ? 'three hosts' : 'one host, NO NETWORK IS CUT: no right to make networks'}`,
);
const rows = [];
let isGood = true;
const whole = new ElasticRun('whole');
const disturbed = [];
try {
  await whole.end();
  const run = new ElasticRun('disturbed');
  disturbed.push(run);
  for (let i = 0; i < faults; i++) {
    // All there, some steps, then a part of a step.
    const isWhole = ({ world }) => world?.size === processes;
    if ((await run.until(isWhole, 300_000)) === null) break;
    const more = run.last().step + Math.floor(random() * 12);
    if ((await run.until(({ step }) => step >= Math.min(more, steps - 8))) === null) break;
    await sleep(random() * 50);
    const before = run.last();
    const { kind, undo } = strike(run);
    const ms = await run.until(
      ({ world, step }) => (world?.round ?? 0) > before.world.round || step >= steps,
      2 * limitMs,
    );
    const { round } = run.lines().findLast((line) => line.round !== undefined) ?? {};
    rows.push({
      fault: kind,
      'after step': before.step,
      'goes on after (s)': ms === null ? 'NEVER' : (ms / 1000).toFixed(1),
      from: round?.from,
      lost: round?.lost.join(),
      size: round?.size,
    });
    console.log(JSON.stringify(rows.at(-1)));
    isGood &&= ms !== null && ms <= limitMs;
    undo();
  }
  await run.end();
  const [a, b] = [whole, run].map((each) => each.lines().filter(({ loss }) => loss !== undefined));
  const last = [whole, run].map((each) => each.lines().findLast(({ evalLoss }) => evalLoss !== undefined).evalLoss);
  const flips = a.filter((line, i) => line.expertImbalance !== b[i]?.expertImbalance).map(({ step }) => step);
  const firstFlip = flips[0] ?? steps + 1;
  const relative = (x, y) => Math.abs(x - y) / Math.abs(y);
  const upTo = a.filter(({ step }) => step < firstFlip);
  const worst = Math.max(0, ...upTo.map(({ loss }, i) => relative(b[i]?.loss, loss)));
  const lossGap = relative(last[1], last[0]);
  console.table(rows);
  console.log(`steps: ${b.length} of ${steps}, tokens ${b.at(-1).tokens} and ${a.at(-1).tokens}`);
  console.log(
    `losses until the first flip of a router (step ${flips.length > 0 ? firstFlip : 'none'}; ${flips.length} in all): within ${worst.toExponential(1)}`,
  );
  console.log(`held-out loss at the end: ${last[1]} and ${last[0]} undisturbed, ${lossGap.toExponential(1)}`);
  isGood &&=
    rows.length === faults &&
    b.length === steps &&
    a.every(({ step, tokens }, i) => b[i].step === step && b[i].tokens === tokens);
  isGood &&= worst <= 5e-6 && lossGap <= (flips.length > 0 ? 1e-3 : 5e-6);
} finally {
  for (const run of [whole, ...disturbed]) run.kill();
  network?.remove();
  if (isGood) rmSync(folder, { recursive: true });
  else console.log(`logs are in ${folder}`);
}
console.log(isGood ? 'good' : 'NOT GOOD');
if (!isGood) process.exitCode = 1;
