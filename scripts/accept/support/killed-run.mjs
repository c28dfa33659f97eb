// Runs of the smallest preset in processes of their own, which can be killed; and whether two runs hold the same bits.
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const cli = fileURLToPath(new URL('../../../dist/cli/main.js', import.meta.url));

/** Park and Miller's generator: enough to choose moments, repeatable by seed. */
export function generator(seed) {
  let state = seed;
  return () => {
    state = (state * 48271) % 2147483647;
    return state / 2147483647;
  };
}

/** Starts the run `out`, or goes on with it. */
export function start(out, { steps, checkpointEvery }, more = []) {
  const set = ['evaluation.every=20', `data.cache=${out}-data`, ...more].flatMap((pair) => ['--set', pair]);
  const flags = ['--preset', 'test', '--steps', steps, '--checkpoint-every', checkpointEvery, '--threads', 2, ...set];
  const child = spawn(process.execPath, [cli, 'train', ...flags.map(String), '--out', out, '--resume', '--json']);
  /** @type {{ type?: string; step?: number; notes?: string[]; message?: string }[]} */
  const events = [];
  const ended = new Promise((resolve) => child.on('close', (status, signal) => resolve({ status, signal })));
  const run = { child, out, events, began: performance.now(), output: '', ended };
  let rest = '';
  child.stdout.setEncoding('utf8').on('data', (text) => {
    const lines = (rest + text).split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) run.events.push(JSON.parse(line));
  });
  child.stderr.setEncoding('utf8').on('data', (text) => {
    run.output += text;
  });
  return run;
}

/** Waits for the run's end, which must be a good one. */
export async function finished(run) {
  const { status } = await run.ended;
  if (status !== 0) throw new Error(`the run ended with status ${status}:\n${run.output}`);
  return run;
}

/** Waits until `condition`; looks as often as it can, since a checkpoint is written in milliseconds. */
export async function until(run, condition) {
  while (run.child.exitCode === null && !condition()) await new Promise((resolve) => setImmediate(resolve));
}

/** Names in the run's checkpoints/. */
export const checkpointsOf = ({ out }) =>
  existsSync(join(out, 'checkpoints')) ? readdirSync(join(out, 'checkpoints')).sort() : [];

export const isWhole = (name) => /^step-\d{8}$/.test(name);

/** Directory of the newest checkpoint that is not being written. */
export const newest = (run) => join(run.out, 'checkpoints', String(checkpointsOf(run).filter(isWhole).at(-1)));

export const isWriting = (run) => checkpointsOf(run).some((name) => name.includes('.tmp-'));

export const firstStep = ({ events }) => events.find(({ type }) => type === 'start')?.step ?? null;

export const lastStep = ({ events }) => events.findLast(({ type }) => type === 'step')?.step ?? null;

const digest = (path) => createHash('sha256').update(readFileSync(path)).digest('hex').slice(0, 16);

const metrics = ({ out }) =>
  readFileSync(join(out, 'metrics.jsonl'), 'utf8').replace(
    /"(tokensPerSecond|stepMs|residentBytes|allocatedPeakBytes)":[^,}]+/g,
    '"$1":0',
  );

/** Compares two runs' last checkpoints file by file and their metrics line by line; prints it. */
export function areEqual(whole, resumed) {
  let equal = true;
  const compare = (name, [a, b]) => {
    equal &&= a === b;
    console.log(`${a === b ? 'equal  ' : 'DIFFERS'} ${a} ${b} ${name}`);
  };
  for (const name of readdirSync(newest(whole)).sort()) {
    compare(name, [digest(join(newest(whole), name)), digest(join(newest(resumed), name))]);
  }
  const lines = [whole, resumed].map((run) => metrics(run).split('\n'));
  const [first, second] = [lines[0] ?? [], lines[1] ?? []];
  const differing = first.findIndex((line, i) => line !== second[i]);
  compare('lines of metrics.jsonl, but for times and memory', [first.length, second.length]);
  if (differing >= 0) {
    equal = false;
    console.log(`DIFFERS in line ${differing + 1}:\n  ${first[differing]}\n  ${second[differing]}`);
  }
  return equal;
}
