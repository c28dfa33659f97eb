// What saving in the background costs: times of steps while a checkpoint is written beside times without. An update waits
// for the copy of what it writes for at most 5 % of a step.
//
//   npm run accept -- background-saving [config=bench/peers/deepseek-116m.json] [batch=4] [seqLen=256] [threads=2]
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadAddon } from '../../dist/addon/addon.js';
import { batchFromRows } from '../../dist/data/batch.js';
import { randomUint32 } from '../../dist/data/shuffle.js';
import { modelFromConfig } from '../../dist/models/families.js';
import { openDevice } from '../../dist/runtime/device.js';
import { planPrograms } from '../../dist/train/planning.js';
import { RunDirectory } from '../../dist/train/run-directory.js';
import { CheckpointSaver } from '../../dist/train/saving.js';
import { defaultStepConfig } from '../../dist/train/step-config.js';
import { Stepper } from '../../dist/train/stepper.js';

const [file = 'bench/peers/deepseek-116m.json', batch = 4, seqLen = 256, threads = 2] = process.argv.slice(2);
const model = modelFromConfig(JSON.parse(readFileSync(file, 'utf8')), file);
const config = defaultStepConfig({ batch: Number(batch), seqLen: Number(seqLen) }, 'bf16');
const folder = mkdtempSync(join(tmpdir(), 'hadal-saving-'));

const median = (numbers) => numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)] ?? Number.NaN;
const memory = () => Math.round(process.memoryUsage().rss / 2 ** 20);

/** The instructions of the optimizer, by number: what waits for copies is the first of them. */
const updates = ({ times }) => times.filter(({ op }) => op === 'adamw').reduce((sum, { ms }) => sum + ms, 0);

/** State of a run that has no data; its position does not matter here. */
/** @returns {import('../../dist/train/checkpoint.js').TrainState} */
const stateAt = (/** @type {number} */ step) => ({
  step,
  tokens: 0,
  skippedSteps: 0,
  evalLoss: null,
  seed: 1,
  cursor: /** @type {any} */ ({}),
  watch: { lrFactor: 1, losses: [], skippedInARow: 0, holding: [] },
  threads: Number(threads),
  instructionSet: loadAddon().features().isa,
  dtype: 'bf16',
});

try {
  const device = openDevice('cpu', { threads: Number(threads) });
  const plans = await planPrograms(model, config, { target: Number(threads), accumulates: false });
  const stepper = new Stepper(device, model, config, plans);
  await stepper.initialize(1);
  const directory = await RunDirectory.open(join(folder, 'run'), { resume: false });
  const saver = new CheckpointSaver(directory, stepper, {}, { every: 1, keep: 1, best: 0, background: true });

  let step = 0;
  const rows = () =>
    Array.from({ length: Number(batch) }, (_, row) =>
      Array.from(
        { length: Number(seqLen) },
        (_, i) => randomUint32(step, row * Number(seqLen) + i)() % model.vocabSize,
      ),
    );
  const inputs = { lr: 3e-4, mtpWeight: 0.3, balanceWeight: 1e-4, routerBiasSpeed: 1e-3, seed: 1 };
  const update = async () => {
    const window = [batchFromRows(rows(), { seqLen: Number(seqLen), mtpDepth: model.mtpDepth })];
    const began = performance.now();
    const result = await stepper.update(window, { ...inputs, step: step++ }, { profile: true });
    return { ms: performance.now() - began, update: updates(result) };
  };

  for (let i = 0; i < 2; i++) await update();
  const alone = [];
  const during = [];
  const saves = [];
  // In turns, so that a machine whose load changes does so for both.
  for (let turn = 0; turn < 3; turn++) {
    for (let i = 0; i < 4; i++) {
      alone.push(await update());
      if (i < 3) saver.prepare(3 - i);
    }
    const began = performance.now();
    const before = memory();
    await saver.begin(stateAt(step));
    let most = 0;
    for (let events = []; events.length === 0; events = saver.takeEvents()) {
      during.push({ turn, ...(await update()) });
      most = Math.max(most, memory());
      if (events[0]?.type === 'warning') throw new Error(events[0].message);
    }
    const seconds = (performance.now() - began) / 1000;
    await update();
    saves.push({ seconds, before, most, after: memory() });
  }
  const began = performance.now();
  const { bytes } = await saver.save(stateAt(step));
  const foregroundMs = performance.now() - began;

  const [stepMs, updateMs] = [median(alone.map(({ ms }) => ms)), median(alone.map(({ update: ms }) => ms))];
  const rounded = (ms) => Number(ms.toFixed(0));
  console.log(
    `${file}, bf16, ${batch} × ${seqLen}, ${threads} threads; load of the machine ${loadavg()[0]?.toFixed(1)}`,
  );
  console.table([
    ...alone.map(({ ms, update: part }) => ({ step: 'alone', ms: rounded(ms), 'of it the update': rounded(part) })),
    ...during.map(({ turn, ms, update: part }) => ({
      step: `save ${turn + 1}`,
      ms: rounded(ms),
      'of it the update': rounded(part),
    })),
  ]);
  console.table(
    saves.map(({ seconds, before, most, after }) => ({
      'seconds a save': Number(seconds.toFixed(1)),
      'MiB before': before,
      during: most,
      after,
    })),
  );
  // The first step after the snapshot is the one that may have to wait.
  const firsts = during.filter(({ turn }, i) => during.findIndex((other) => other.turn === turn) === i);
  const stall = Math.max(...firsts.map(({ update: ms }) => ms - updateMs)) / stepMs;
  const slowdown = during.reduce((sum, { ms }) => sum + ms, 0) / during.length / stepMs;
  const percent = (share) => `${(100 * share).toFixed(1)} %`;
  console.log(`a step alone ${rounded(stepMs)} ms, its update ${rounded(updateMs)} ms (medians)`);
  console.log(`an update waited for the copy ${percent(stall)} of a step at most (allowed: 5 %)`);
  console.log(`steps while saving take ${slowdown.toFixed(3)} × those without`);
  console.log(
    `saved without a snapshot, training would wait ${rounded(foregroundMs)} ms (${Math.round(bytes / 2 ** 20)} MiB)`,
  );
  await saver[Symbol.asyncDispose]();
  directory.dispose();
  stepper.dispose();
  device.dispose();
  if (!(stall <= 0.05)) process.exitCode = 1;
} finally {
  rmSync(folder, { recursive: true });
}
