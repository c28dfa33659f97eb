// A run that is killed (SIGKILL) at random moments and resumed each time ends with the very bits of one that was not.
//
//   npm run accept -- kill-resume [kills=10] [seed=time]
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const kills = Number(process.argv[2] ?? 10);
let state = Number(process.argv[3] ?? Date.now() % 2 ** 31);
const folder = mkdtempSync(join(tmpdir(), 'hadal-kill-'));
const cli = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
const steps = 300;

/** Park and Miller's generator: enough to choose moments, repeatable by seed. */
function random() {
  state = (state * 48271) % 2147483647;
  return state / 2147483647;
}

/** Starts the run `name`, or goes on with it. */
function start(name) {
  const out = join(folder, name);
  const set = ['evaluation.every=20', `data.cache=${join(folder, `data-${name}`)}`].flatMap((pair) => ['--set', pair]);
  const flags = ['--preset', 'test', '--steps', steps, '--checkpoint-every', 10, '--threads', 2, ...set];
  const child = spawn(process.execPath, [cli, 'train', ...flags.map(String), '--out', out, '--resume', '--json']);
  /** @type {{ type?: string; step?: number }[]} */
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

const finished = async (run) => {
  const { status } = await run.ended;
  if (status !== 0) throw new Error(`the run ended with status ${status}:\n${run.output}`);
  return run;
};

const isWriting = (run) =>
  existsSync(join(run.out, 'checkpoints')) &&
  readdirSync(join(run.out, 'checkpoints')).some((name) => name.includes('.tmp-'));

/** Waits until `condition`; looks as often as it can, since a checkpoint is written in milliseconds. */
async function until(run, condition) {
  while (run.child.exitCode === null && !condition()) await new Promise((resolve) => setImmediate(resolve));
}

const firstStep = ({ events }) => events.find(({ type }) => type === 'start')?.step ?? null;
const lastStep = ({ events }) => events.findLast(({ step }) => step !== undefined)?.step ?? null;
const digest = (path) => createHash('sha256').update(readFileSync(path)).digest('hex').slice(0, 16);
const last = ({ out }) => {
  const whole = readdirSync(join(out, 'checkpoints')).filter((name) => !name.includes('.'));
  return join(out, 'checkpoints', String(whole.sort().at(-1)));
};
const metrics = (run) =>
  readFileSync(join(run.out, 'metrics.jsonl'), 'utf8').replace(/"(tokensPerSecond|stepMs)":[^,}]+/g, '"$1":0');

console.log(`kill-resume: ${kills} kills, seed ${state}`);
const whole = await finished(start('whole'));
const rows = [];
for (let i = 0; i < kills; i++) {
  const run = start('killed');
  const moment = i === 0 ? 'starting' : i % 3 === 2 ? 'writing a checkpoint' : 'running';
  if (moment === 'starting') {
    const atMs = run.began + random() * 1000;
    await until(run, () => performance.now() > atMs);
  } else {
    // Some steps, then a part of a step.
    const more = Math.floor((random() * 1.8 * steps) / kills);
    await until(run, () => run.events.some(({ type }) => type === 'start'));
    await until(run, () => (lastStep(run) ?? 0) >= Math.min(firstStep(run) + more, steps - 20));
    const atMs = performance.now() + random() * 30;
    await until(run, () => performance.now() > atMs && (moment === 'running' || isWriting(run)));
  }
  run.child.kill('SIGKILL');
  const { signal } = await run.ended;
  rows.push({
    kill: i + 1,
    while: moment,
    'resumed at': firstStep(run),
    'killed after step': lastStep(run),
    signal,
    'half written': isWriting(run),
  });
}
const resumed = await finished(start('killed'));
console.table(rows);

const files = readdirSync(last(whole)).sort();
const differing = files.filter((name) => digest(join(last(whole), name)) !== digest(join(last(resumed), name)));
const sameMetrics = metrics(whole) === metrics(resumed);
for (const name of files) {
  const same = differing.includes(name) ? 'DIFFERS' : 'equal';
  console.log(`${same.padEnd(8)} ${digest(join(last(whole), name))} ${digest(join(last(resumed), name))} ${name}`);
}
console.log(`${sameMetrics ? 'equal   ' : 'DIFFERS '} metrics.jsonl, but for times`);
const wasKilled = rows.filter(({ signal }) => signal === 'SIGKILL').length;
console.log(`${wasKilled} of ${kills} runs were killed; the last went on from step ${firstStep(resumed)}`);
rmSync(folder, { recursive: true });
if (differing.length > 0 || !sameMetrics || wasKilled < kills) process.exitCode = 1;
