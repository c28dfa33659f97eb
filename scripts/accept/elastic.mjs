// A run of three hosts of one process each goes on by itself when a process is killed, stopped or cut off from the others, and
// ends with the loss of an undisturbed one, on exactly its batches.
//
//   npm run accept -- elastic [faults=20] [seed=time]
//
// Hosts are network namespaces, each with a launcher; where these are not allowed, one launcher has all processes, and no
// network is cut. Host 0 holds the rendezvous: when it is the one that is cut off, nothing goes on before it is mended.
//
// After a cut, two processes go on until the third is back: gradients are added up in another order, and routers flip, as they do
// between undisturbed runs of two and of three processes. Batches are so big and the learning rate so low that losses stay some
// 1e-7 apart before the first flip and 1e-5 after hundreds, where another batch would be 1e-3 away, and one other row of it 5e-5.
import '../../bench/support/typescript.mjs';
import { execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  closeSync,
  existsSync,
  fstatSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  rmSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { generator, newest } from './support/killed-run.mjs';

const { canMakeNetworks, makeNetwork } = await import('../../test/support/network.js');
const cli = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));

const faults = Number(process.argv[2] ?? 20);
const seed = Number(process.argv[3] ?? Date.now() % 2 ** 31);
const random = generator(seed);
// Of a fault up to thirty, and enough behind the last one for the processes to be all there again.
const steps = 30 * faults + 60;
const processes = 3;
const limitMs = 30_000;
/** How long the meeting place is cut off. */
const cutMs = 5000;
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
          `${network.hosts[0]?.address}:29500`,
        ]
      : ['--nproc', processes];
    const elastic = ['--max-restarts', 10 * faults, '--heartbeat-timeout', 3, '--round-timeout', 10];
    const args = [cli, 'launch', ...hosts, ...elastic, '--', ...train].map(String);
    const log = openSync(`${this.out}-${node}.log`, 'a');
    const [file, all] = network?.hosts[node]?.command(process.execPath, args) ?? [process.execPath, args];
    const child = spawn(file, all, { env: { ...process.env, HADAL_TOKEN: token }, stdio: ['ignore', log, log] });
    const ended = new Promise((resolve) => child.on('close', (status, signal) => resolve(status ?? signal)));
    this.#nodes[node] = Object.assign(child, { ended });
  }

  /** Lines of metrics.jsonl; the last may be cut off. */
  lines() {
    const path = join(this.out, 'metrics.jsonl');
    if (!existsSync(path)) return [];
    return readFileSync(path, 'utf8').split('\n').flatMap(parsedLine);
  }

  /** The newest update. */
  last() {
    return newestLine(join(this.out, 'metrics.jsonl')) ?? { step: 0, world: { round: 0, size: 0 } };
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

/** Of the last update in a file of metrics, which is read often: its end is enough. */
function newestLine(path) {
  if (!existsSync(path)) return undefined;
  const file = openSync(path, 'r');
  const { size } = fstatSync(file);
  const end = Buffer.alloc(Math.min(size, 8192));
  const read = readSync(file, end, 0, end.length, size - end.length);
  closeSync(file);
  const parsed = end.toString('utf8', 0, read).split('\n').flatMap(parsedLine);
  return parsed.findLast(({ loss }) => loss !== undefined);
}

/** Nothing for one that is cut off. */
function parsedLine(line) {
  try {
    return [JSON.parse(line)];
  } catch {
    return [];
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

/** Kinds of faults, each as often as the others, in any order. */
function* kindsOfFaults() {
  for (;;) {
    const kinds = ['kill -9', 'SIGSTOP', ...(network ? ['cut network'] : [])];
    while (kinds.length > 0) yield kinds.splice(Math.floor(random() * kinds.length), 1)[0];
  }
}

/** @returns what was done, and what mends it once the run goes on */
function strike(run, kind) {
  if (network && kind === 'cut network') {
    const node = Math.floor(random() * processes);
    network.cut(node);
    const mend = () => network.mend(node);
    if (node === 0) setTimeout(mend, cutMs);
    return { where: `host ${node}`, mend };
  }
  const found = workers(run.out);
  const struck = found[Math.floor(random() * found.length)];
  if (struck === undefined)
    throw new Error(`expected processes that train, found none; ${run.last().step} updates are done`);
  const { pid, host } = struck;
  process.kill(pid, kind === 'SIGSTOP' ? 'SIGSTOP' : 'SIGKILL');
  return { where: host && `host ${host.split('-').at(-1)}`, mend: () => {} };
}

const isWhole = ({ world }) => world?.size === processes;
const seconds = (ms) => (ms === null ? 'NEVER' : Number((ms / 1000).toFixed(1)));

/** Strikes at a random moment. @returns what became of it; null: the run does not get that far */
async function disturb(run, kind) {
  // All there, some steps, then a part of a step.
  const more = run.last().step + Math.floor(random() * 12);
  if ((await run.until(({ step }) => step >= Math.min(more, steps - 8))) === null) return null;
  await sleep(random() * 100);
  const before = run.last();
  const { where, mend } = strike(run, kind);
  const goesOnMs = await run.until(({ world }) => world.round > before.world.round, 2 * limitMs);
  mend();
  const wholeMs = await run.until(isWhole, 2 * limitMs);
  const { round } = run.lines().find((line) => line.round?.round > before.world.round) ?? {};
  const row = {
    ...{ fault: kind, where, rank: round?.lost.join(), 'after update': before.step },
    ...{
      'goes on (s)': seconds(goesOnMs),
      from: round?.from,
      processes: round?.size,
      'all there (s)': seconds(wholeMs),
    },
  };
  console.log(JSON.stringify(row));
  return { row, isGood: goesOnMs !== null && goesOnMs <= limitMs && wholeMs !== null };
}

const updatesOf = (run) => run.lines().filter(({ loss }) => loss !== undefined);
const relative = (x, y) => Math.abs(x - y) / Math.abs(y);

/** Whether a run did what the undisturbed one did. */
function compare(run, whole, rows) {
  const [a, b] = [updatesOf(whole), updatesOf(run)];
  const isComplete =
    b.length === steps && a.every(({ step, tokens }, i) => b[i].step === step && b[i].tokens === tokens);
  const [mine, other] = [run, whole].map(({ out }) =>
    JSON.stringify(JSON.parse(readFileSync(join(newest({ out }), 'state.json'), 'utf8')).cursor),
  );
  const gaps = a.map(({ loss }, i) => relative(b[i]?.loss, loss));
  for (const row of rows) row['first losses'] = Math.max(...gaps.slice(row['after update'], row['after update'] + 8));
  const flips = a.filter((line, i) => line.expertImbalance !== b[i]?.expertImbalance).map(({ step }) => step);
  const agreeing = gaps.slice(0, (flips[0] ?? steps + 1) - 1);
  const steadiness = a.slice(1).map(({ loss }, i) => relative(loss, a[i].loss));
  const [evalLoss, wholeEvalLoss] = [run, whole].map(
    (each) => each.lines().findLast((line) => line.evalLoss !== undefined).evalLoss,
  );
  const result = {
    'updates, of': [b.length, steps],
    'tokens, of': [b.at(-1).tokens, a.at(-1).tokens],
    'the same cursor at the end': mine === other,
    'updates whose routers flipped': flips.length,
    'the first of them': flips[0] ?? null,
    'losses before it': Math.max(0, ...agreeing),
    'all losses': Math.max(...gaps),
    'for comparison, from one batch to the next (median)': steadiness.sort((x, y) => x - y)[steadiness.length >> 1],
    'held-out loss': evalLoss,
    undisturbed: wholeEvalLoss,
    'their gap': relative(evalLoss, wholeEvalLoss),
  };
  console.table(rows);
  console.log(result);
  const tolerance = flips.length > 0 ? 1e-3 : 5e-6;
  const isClose = Math.max(0, ...agreeing) <= 5e-6 && Math.max(...gaps, result['their gap']) <= tolerance;
  return isComplete && mine === other && isClose;
}

console.log(
  `elastic: ${faults} faults, seed ${seed}, ${steps} updates, ${network ? 'three hosts' : 'one host, NO NETWORK IS CUT: no right to make networks'}`,
);
const runs = [];
let isGood = true;
try {
  const whole = new ElasticRun('whole');
  runs.push(whole);
  await whole.end();
  const run = new ElasticRun('disturbed');
  runs.push(run);
  const rows = [];
  const kinds = kindsOfFaults();
  await run.until(isWhole);
  while (rows.length < faults) {
    const found = await disturb(run, kinds.next().value);
    if (!found) break;
    rows.push(found.row);
    isGood &&= found.isGood;
  }
  await run.end();
  isGood = compare(run, whole, rows) && isGood && rows.length === faults;
} finally {
  for (const run of runs) run.kill();
  network?.remove();
  if (isGood) rmSync(folder, { recursive: true });
  else console.log(`logs are in ${folder}`);
}
console.log(isGood ? 'good' : 'NOT GOOD');
if (!isGood) process.exitCode = 1;
