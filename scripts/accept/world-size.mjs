// A run that goes on in 4, then 2, then 3 processes through checkpoints reads exactly the batches of an undisturbed one and
// computes the same: losses within 5e-6 while routers decide alike, else within 1e-3; also from one ZeRO stage to another.
//
//   npm run accept -- world-size [steps=50] [batch=12]
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { test } from '../../dist/cli/presets/test.js';

const steps = Number(process.argv[2] ?? 50);
const batch = Number(process.argv[3] ?? 12);
const folder = mkdtempSync(join(tmpdir(), 'hadal-world-size-'));
const cli = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
const part = fileURLToPath(new URL('support/world-size-part.mjs', import.meta.url));

/** @type {Record<string, { size: number; zero: number }[]>} */
const runs = {
  undisturbed: [{ size: 1, zero: 0 }],
  '4 → 2 → 3': [4, 2, 3].map((size) => ({ size, zero: 0 })),
  '4 → 2 → 3, ZeRO 2': [4, 2, 3].map((size) => ({ size, zero: 2 })),
  '4 of ZeRO 3 → 2 of ZeRO 1 → 3 of ZeRO 2 → 1': [
    { size: 4, zero: 3 },
    { size: 2, zero: 1 },
    { size: 3, zero: 2 },
    { size: 1, zero: 0 },
  ],
};

/** Runs a part in so many processes, to its end. @param {number} size @param {object} task */
async function runPart(size, task) {
  const own = [part, JSON.stringify(task)];
  const launched = [cli, 'launch', '--nproc', String(size), '--max-restarts', '0', '--', 'node', ...own];
  const child = spawn(process.execPath, size > 1 ? launched : own, { stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text) => (output += text));
  const status = await new Promise((resolve) => child.on('close', resolve));
  if (status !== 0) throw new Error(`${size} processes ended with status ${status}:\n${output}`);
}

/** What a run read and computed, by step. @param {{ size: number; zero: number }[]} parts @param {number} number */
async function trained(parts, number) {
  const log = join(folder, `log-${number}.jsonl`);
  const { optimizer, ...preset } = test();
  const data = { sources: ['synthetic'], cache: join(folder, 'data') };
  const options = {
    ...preset,
    data,
    batch,
    steps,
    dtype: 'fp32',
    threads: 1,
    seed: 3,
    optimizer: { ...optimizer, lr: 3e-3 },
  };
  const out = join(folder, `run-${number}`);
  for (const [i, { size, zero }] of parts.entries()) {
    const last = Math.round((steps * (i + 1)) / parts.length);
    await runPart(size, { last, log, options: { ...options, out, dist: { zero }, resume: i > 0 } });
  }
  /** @type {{ rows: Map<number, string[]>; losses: Map<number, any>; notes: string[] }} */
  const told = { rows: new Map(), losses: new Map(), notes: [] };
  for (const line of readFileSync(log, 'utf8').trimEnd().split('\n')) {
    const { step, rows, notes, ...numbers } = JSON.parse(line);
    if (notes) told.notes.push(...notes);
    else if (rows) told.rows.set(step, [...(told.rows.get(step) ?? []), ...rows].sort());
    else told.losses.set(step, numbers);
  }
  return told;
}

try {
  const all = [];
  for (const [i, parts] of Object.values(runs).entries()) {
    console.log(`${new Date().toISOString().slice(11, 19)}  ${Object.keys(runs)[i]}`);
    all.push(await trained(parts, i));
  }
  const [whole, ...others] = all;
  let isWell = true;
  const table = others.map((run, i) => {
    const everyStep = Array.from({ length: steps }, (_, step) => step + 1);
    const rowsAlike = everyStep.filter((step) => `${run.rows.get(step)}` === `${whole?.rows.get(step)}`).length;
    // An expert's load tells when a router has decided otherwise; what follows is another trajectory.
    const flip = everyStep.find(
      (step) => run.losses.get(step)?.expertImbalance !== whole?.losses.get(step)?.expertImbalance,
    );
    const differences = everyStep.map((step) => {
      const [a, b] = [run, whole].map((one) => one?.losses.get(step)?.loss ?? Number.NaN);
      return { step, relative: Math.abs(a - b) / b };
    });
    const worst = (/** @type {typeof differences} */ some) => Math.max(0, ...some.map(({ relative }) => relative));
    const before = worst(differences.filter(({ step }) => step < (flip ?? steps + 1)));
    const after = worst(differences.filter(({ step }) => step >= (flip ?? steps + 1)));
    isWell &&= rowsAlike === steps && before < 5e-6 && after < 1e-3;
    return {
      run: Object.keys(runs)[i + 1],
      'steps on the same rows': `${rowsAlike} of ${steps}`,
      'routers alike up to step': (flip ?? steps + 1) - 1,
      'loss differs by': before.toExponential(1),
      'behind that by': flip ? after.toExponential(1) : '–',
    };
  });
  console.table(table);
  for (const note of new Set(others.flatMap(({ notes }) => notes))) console.log(note);
  if (!isWell) process.exitCode = 1;
} finally {
  rmSync(folder, { recursive: true });
}
