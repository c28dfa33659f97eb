// What ZeRO saves: memory of each of four processes as planned and as measured, stage by stage, and that losses stay the same.
//
//   npm run accept -- zero [model=14m] [steps=6] [stages=0,1,2,3] [dtype=fp32]
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const [size = '14m', given = '6', stages = '0,1,2,3', dtype = 'fp32'] = process.argv.slice(2);
const steps = Number(given);
const processes = 4;
/** Of the memory that is planned, a process may take so much more. */
const mostOver = 1.15;
/** Of two losses, where numbers are fp32 and where they are narrower. */
const lossBound = dtype === 'fp32' ? 5e-6 : 1e-3;
const mostMs = 900_000;
const cli = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
const model = JSON.parse(readFileSync(new URL(`../../bench/peers/deepseek-${size}.json`, import.meta.url), 'utf8'));
const folder = mkdtempSync(join(tmpdir(), 'hadal-zero-'));
const mib = (bytes) => (bytes / 2 ** 20).toFixed(0);

/** Trains, and watches how much of memory each process has. */
async function run(zero) {
  const file = join(folder, 'config.json');
  const config = {
    model: { config: model },
    data: { sources: ['sotu'], cache: join(folder, 'data') },
    out: join(folder, `stage-${zero}`),
    ...{ steps, batch: 16, gradAccumulationSteps: 2, seqLen: 256, dtype, threads: 1 },
    evaluation: { batches: 2 },
    dist: { zero },
  };
  writeFileSync(file, JSON.stringify(config));
  const args = ['launch', '--nproc', processes, '--max-restarts', 0, '--', 'train', '--config', file, '--json'];
  const child = spawn(process.execPath, [cli, ...args.map(String)], { stdio: ['ignore', 'pipe', 'pipe'] });
  const peaks = new Map();
  const timer = setInterval(() => notePeaks(child.pid, peaks), 100);
  const late = setTimeout(() => child.kill('SIGTERM'), mostMs);
  let [output, errors] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', (text) => {
    output += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text) => {
    errors += text;
  });
  const status = await new Promise((resolve) => child.on('close', resolve));
  clearInterval(timer);
  clearTimeout(late);
  if (status !== 0) throw new Error(`stage ${zero} ended with ${status}:\n${errors.slice(-3000)}`);
  const events = output
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line));
  const updates = events.filter(({ type }) => type === 'step');
  return {
    planned: events.find(({ type }) => type === 'start').memory,
    allocated: Math.max(...updates.map(({ allocatedPeakBytes }) => allocatedPeakBytes)),
    resident: [...peaks.values()].sort((a, b) => b - a),
    losses: [...updates.map(({ loss }) => loss), events.findLast(({ type }) => type === 'evaluation').evalLoss],
    stepMs: updates.map(({ stepMs }) => stepMs).sort((a, b) => a - b)[Math.floor(updates.length / 2)],
  };
}

/** The most memory that the processes of a launcher have had so far, where the system tells. */
function notePeaks(launcher, peaks) {
  const list = `/proc/${launcher}/task/${launcher}/children`;
  for (const pid of existsSync(list) ? readFileSync(list, 'utf8').split(' ').filter(Boolean) : []) {
    try {
      const [, kib] = /VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? [];
      if (kib) peaks.set(pid, Number(kib) * 1024);
    } catch {} // It has ended.
  }
}

const relative = (a, b) => Math.max(...a.map((x, i) => Math.abs(x / b[i] - 1)));

const failures = [];
try {
  console.log(
    `DeepSeek ${size}, ${dtype}, ${processes} processes of a thread, 2 micro-batches of 2 × 256 tokens each; MiB a process`,
  );
  console.log(
    'stage  weights  gradients  optimizer   rest  allocated (measured)  process (measured, each)        ms a step  loss',
  );
  let plain = null;
  for (const zero of stages.split(',').map(Number)) {
    const { planned, allocated, resident, losses, stepMs } = await run(zero);
    plain ??= losses;
    const { weights, gradients, optimizer, allocated: inTensors, total } = planned;
    console.log(
      String(zero).padStart(5),
      ...[weights, gradients, optimizer, total - weights - gradients - optimizer].map((bytes, i) =>
        mib(bytes).padStart([9, 10, 10, 6][i] ?? 0),
      ),
      `${mib(inTensors).padStart(9)} ${`(${mib(allocated)})`.padEnd(10)}`,
      `${mib(total).padStart(9)} (${resident.map(mib).join(', ')})`.padEnd(32),
      stepMs.toFixed(0).padStart(9),
      `${losses.at(-1).toFixed(4)}, ${relative(losses, plain).toExponential(1)} from stage ${stages.split(',')[0]}`,
    );
    if (relative(losses, plain) > lossBound) failures.push(`losses of stage ${zero} differ by more than ${lossBound}`);
    if (Math.abs(allocated / inTensors - 1) > 0.02) failures.push(`stage ${zero} allocated what was not planned`);
    if (resident[0] > mostOver * total)
      failures.push(`a process of stage ${zero} took more than ${mostOver} of its plan`);
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
for (const failure of failures) console.log(`FAILED: ${failure}`);
process.exitCode = failures.length > 0 ? 1 : 0;
