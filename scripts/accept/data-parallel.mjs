// One, two and four processes on the same global batch: the gradient of the first update, losses over 50 updates, the same bits
// when repeated.
//
//   npm run accept -- data-parallel [steps=50]
//
// The gradient is read off the weights: after one update of plain SGD with a learning rate of 2^20 they are it, but for what
// they began with, which is the same in all.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { openTensorDirectory } from '../../dist/formats/safetensors.js';
import { newest } from './support/killed-run.mjs';

const cli = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
const steps = Number(process.argv[2] ?? 50);
const folder = mkdtempSync(join(tmpdir(), 'hadal-parallel-'));

const sgd = ['kind="sgd"', 'lr=1048576', 'momentum=0', 'weightDecay=0', 'clipNorm=null', 'warmupSteps=0'];
const kinds = {
  gradient: ['--steps', 1, ...sgd.flatMap((pair) => ['--set', `optimizer.${pair}`]), '--set', 'loss.routerBiasSpeed=0'],
  losses: ['--steps', steps],
};

function run(name, processes, flags) {
  const out = join(folder, name);
  const set = ['batch=12', 'gradAccumulationSteps=2', 'evaluation.batches=2', `data.cache=${folder}/data`];
  const train = ['train', '--preset', 'test', '--dtype', 'fp32', '--threads', 1, '--out', out, ...flags];
  const launch = processes > 1 ? ['launch', '--nproc', processes, '--'] : [];
  const args = [cli, ...launch, ...train, ...set.flatMap((pair) => ['--set', pair])].map(String);
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`${name} ended with status ${status}:\n${stdout}\n${stderr}`);
  const lines = readFileSync(join(out, 'metrics.jsonl'), 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
  return { out, updates: lines.filter(({ loss }) => loss !== undefined) };
}

/** The weights of the last checkpoint, all in a row. */
async function weightsOf(of) {
  const files = await openTensorDirectory(newest(of));
  const parts = await Promise.all([...files.tensors.keys()].sort().map((tensor) => files.read(tensor)));
  await files[Symbol.asyncDispose]();
  return new Float32Array(new Uint8Array(Buffer.concat(parts)).buffer);
}

/** ‖a − b‖ / ‖b‖. */
function distance(a, b) {
  let [difference, norm] = [0, 0];
  for (const [i, x] of a.entries()) {
    difference += (x - b[i]) ** 2;
    norm += b[i] ** 2;
  }
  return Math.sqrt(difference / norm);
}

const relative = (x, y) => Math.abs(x - y) / Math.abs(y);

let isGood = true;
const rows = [];
const alone = {
  gradient: await weightsOf(run('gradient-1', 1, kinds.gradient)),
  losses: run('losses-1', 1, kinds.losses),
};
for (const processes of [1, 2, 4]) {
  const gradient = await weightsOf(run(`gradient-${processes}-`, processes, kinds.gradient));
  const first = run(`losses-${processes}-`, processes, kinds.losses);
  const again = run(`losses-${processes}-again`, processes, kinds.losses);
  const flips = first.updates.filter((line, i) => line.expertImbalance !== alone.losses.updates[i].expertImbalance);
  const agreeing = first.updates.filter(({ step }) => step < (flips[0]?.step ?? steps + 1));
  const gaps = first.updates.map(({ loss }, i) => relative(loss, alone.losses.updates[i].loss));
  const row = {
    processes,
    gradient: distance(gradient, alone.gradient),
    'losses while routers agree': Math.max(0, ...gaps.slice(0, agreeing.length)),
    'updates that agree': agreeing.length,
    flips: flips.length,
    'all losses': Math.max(...gaps),
    'repeated: bit-equal': distance(await weightsOf(again), await weightsOf(first)) === 0,
  };
  rows.push(row);
  isGood &&= row.gradient <= 1e-6 && row['losses while routers agree'] <= 5e-6 && row['all losses'] <= 1e-3;
  isGood &&= row['repeated: bit-equal'] && first.updates.length === steps;
}
console.table(rows);
rmSync(folder, { recursive: true });
console.log(isGood ? 'good' : 'NOT GOOD');
if (!isGood) process.exitCode = 1;
