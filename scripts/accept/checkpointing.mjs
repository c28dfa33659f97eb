// Activation checkpointing: what it saves, what it costs, and that no bit of the results changes.
//
//   npm run accept -- checkpointing [config=bench/peers/deepseek-116m.json] [batch=8] [seqLen=512] [dtype=bf16] [updates=5]
import { readFileSync } from 'node:fs';
import { loadavg } from 'node:os';
import { batchFromRows } from '../../dist/data/batch.js';
import { randomUint32 } from '../../dist/data/shuffle.js';
import { modelFromConfig } from '../../dist/models/families.js';
import { openDevice } from '../../dist/runtime/device.js';
import { planPrograms } from '../../dist/train/planning.js';
import { defaultStepConfig } from '../../dist/train/step-config.js';
import { Stepper } from '../../dist/train/stepper.js';

const [file = 'bench/peers/deepseek-116m.json', batch = '8', seqLen = '512', dtype = 'bf16', updates = '5'] =
  process.argv.slice(2);
const sizes = { batch: Number(batch), seqLen: Number(seqLen) };
const model = modelFromConfig(JSON.parse(readFileSync(file, 'utf8')));
const device = openDevice('cpu');
const { threads } = device;

/** @typedef {import('../../dist/train/step.js').StepConfig} StepConfig */
/** @typedef {import('../../dist/train/planning.js').Plans} Plans */

const plain = defaultStepConfig(sizes, /** @type {'fp32' | 'bf16'} */ (dtype));

/** Programs of an update of one micro-batch and of several. @param {StepConfig} step @param {number} [withinBytes] */
async function planned(step, withinBytes) {
  return {
    one: await planPrograms(model, step, { target: threads, accumulates: false, withinBytes }),
    several: await planPrograms(model, step, { target: threads, accumulates: true, withinBytes }),
  };
}

/** Of an update of several micro-batches, whose gradients are state: all that its arena holds. @param {Plans} plans */
const activationBytes = ({ first, next }) => Math.max(first?.arenaBytes ?? 0, next?.arenaBytes ?? 0);

/** Bytes of gradients, which an update of one micro-batch has in its arena. */
const gradientBytes = (/** @type {Plans} */ { apply }) =>
  (apply?.slots ?? [])
    .filter(({ name }) => name.startsWith('gradient/'))
    .reduce((sum, { shape }) => sum + 4 * shape.reduce((a, b) => a * b, 1), 0);

const next = randomUint32(1, 2);
const row = () => Array.from({ length: sizes.seqLen }, () => next() % model.vocabSize);
const batches = Array.from({ length: Number(updates) }, () =>
  batchFromRows(Array.from({ length: sizes.batch }, row), { seqLen: sizes.seqLen, mtpDepth: model.mtpDepth }),
);

/** @param {Stepper} stepper @param {number} step */
async function update(stepper, step) {
  const inputs = { lr: 3e-4, mtpWeight: 0.3, balanceWeight: 1e-4, routerBiasSpeed: 1e-3, seed: 1, step };
  const began = performance.now();
  const { times, ...told } = await stepper.update([/** @type {typeof batches[0]} */ (batches[step])], inputs);
  return { ms: performance.now() - began, told: JSON.stringify(told) };
}

/** Names of what two runs left behind in different bits. @param {Stepper} a @param {Stepper} b */
async function differences(a, b) {
  const found = [];
  for (const [name, tensor] of a.tensors) {
    const other = b.tensors.get(name);
    const [x, y] = [await tensor.read(Buffer.alloc(tensor.bytes)), await other?.read(Buffer.alloc(tensor.bytes))];
    if (!y || Buffer.compare(x, y) !== 0) found.push(name);
  }
  return found;
}

/** The two alternate, so that both meet the same load; the fastest updates are compared. @param {StepConfig} step @param {Plans} plans @param {Plans} plainPlans */
async function compare(step, plans, plainPlans) {
  const a = new Stepper(device, model, plain, plainPlans);
  const b = new Stepper(device, model, step, plans);
  for (const stepper of [a, b]) await stepper.initialize(1);
  const times = { before: Number.POSITIVE_INFINITY, after: Number.POSITIVE_INFINITY };
  let isEqual = true;
  for (let i = 0; i < batches.length; i++) {
    const [before, after] = [await update(a, i), await update(b, i)];
    times.before = Math.min(times.before, before.ms);
    times.after = Math.min(times.after, after.ms);
    isEqual &&= before.told === after.told;
  }
  isEqual &&= (await differences(a, b)).length === 0;
  for (const stepper of [a, b]) stepper.dispose();
  return { ratio: times.after / times.before, isEqual };
}

const MiB = (/** @type {number} */ bytes) => `${(bytes / 2 ** 20).toFixed(0)} MiB`;
const percent = (/** @type {number} */ share) => `${(100 * share).toFixed(0)} %`;
const print = (/** @type {string[]} */ ...cells) =>
  console.log(cells.map((cell, i) => (i ? cell.padStart(16) : cell.padEnd(22))).join(''));

const reference = await planned(plain);
const most = activationBytes(reference.several);
const gradients = gradientBytes(reference.several);
const wholeMost = (reference.one.whole?.arenaBytes ?? 0) - gradients;
console.log(`${file}, ${batch} × ${seqLen}, ${dtype}, ${threads} threads, load ${loadavg()[0]?.toFixed(1)}`);
print('', 'activations', 'saved', 'one micro-batch', 'saved', 'step time', 'bits');
print('none', MiB(most), '', MiB(wholeMost), '', '1.00', '');

/** @type {[string, StepConfig['activationCheckpointing'], number?][]} */
const policies = [
  ['selective', 'selective'],
  ['sqrt', 'sqrt'],
  ['every 2 layers', { every: 2 }],
  ['every layer', { every: 1 }],
  ['auto, half', 'auto', 0.5],
  ['auto, a fifth', 'auto', 0.2],
];
const found = [];
for (const [name, activationCheckpointing, share] of policies) {
  const step = { ...plain, activationCheckpointing };
  const { several } = await planned(step, share && share * most);
  const { one } = await planned(step, share && gradients + share * wholeMost);
  const [bytes, whole] = [activationBytes(several), (one.whole?.arenaBytes ?? 0) - gradients];
  const { ratio, isEqual } = await compare(step, one, reference.one);
  print(
    name,
    MiB(bytes),
    percent(1 - bytes / most),
    MiB(whole),
    percent(1 - whole / wholeMost),
    ratio.toFixed(2),
    isEqual ? 'equal' : 'DIFFERENT',
  );
  found.push({ name, share: Math.max(bytes / most, whole / wholeMost), ratio, isEqual });
}

const halving = found.filter(({ share }) => share <= 0.5).map(({ ratio }) => ratio);
const checks = /** @type {[string, boolean][]} */ ([
  ['results are the same bits', found.every(({ isEqual }) => isEqual)],
  [
    `half of the activations at most at ${Math.min(...halving).toFixed(2)} of the time, at most 1.35`,
    Math.min(...halving) <= 1.35,
  ],
  ['a fifth of them at most', found.some(({ share }) => share <= 0.2)],
]);
for (const [text, holds] of checks) console.log(`${holds ? 'ok    ' : 'FAILED'} ${text}`);
if (checks.some(([, holds]) => !holds)) process.exitCode = 1;
device.dispose();
