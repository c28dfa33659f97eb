// One process of scripts/accept/compression.mjs: trains on its share of the batches, then says the held-out loss and the bytes
// that an update sent. Exchanges addresses through its parent.
import { readFileSync, writeFileSync } from 'node:fs';
import { batchFromRows } from '../../../dist/data/batch.js';
import { openProcessGroup } from '../../../dist/dist/process-group.js';
import { modelFromConfig } from '../../../dist/models/families.js';
import { openDevice } from '../../../dist/runtime/device.js';
import { planPrograms } from '../../../dist/train/planning.js';
import { defaultStepConfig } from '../../../dist/train/step-config.js';
import { Stepper } from '../../../dist/train/stepper.js';

/**
 * @typedef {object} Task
 * @property {number} rank
 * @property {number} ranks
 * @property {Record<string, unknown>} model
 * @property {string} tokens file of int32
 * @property {string | null} weights where rank 0 writes what it begins with
 * @property {number} batch rows of all ranks
 * @property {number} seqLen
 * @property {number} steps
 * @property {number} lr
 * @property {number} warmup
 * @property {number} evalRows
 * @property {import('../../../dist/optim/dist-config.js').CompressionConfig} compression
 */

/** @type {(addresses: Uint8Array[]) => void} */
let onAddresses = () => {};
process.on('message', (/** @type {any} */ message) => {
  if (message.addresses) onAddresses(message.addresses.map((/** @type {number[]} */ one) => Uint8Array.from(one)));
  else run(message.task).catch((error) => process.send?.({ error: String(error.stack ?? error) }));
});

/** @param {Task} task */
async function run(task) {
  const { rank, ranks, batch, seqLen, steps, evalRows, compression } = task;
  const model = modelFromConfig(task.model);
  const rowsOfRank = batch / ranks;
  const base = defaultStepConfig({ batch: rowsOfRank, seqLen }, 'fp32');
  const dist = { rank, worldSize: ranks, zero: 0, bucketBytes: 4 << 20, overlap: true, compression };
  const config = { ...base, optimizer: { ...base.optimizer, steps }, dist };
  const device = openDevice('cpu', { threads: 1 });
  const group = await openProcessGroup({
    backend: 'gloo',
    rank,
    size: ranks,
    timeout: 60,
    exchange: (address) =>
      new Promise((resolve) => {
        onAddresses = resolve;
        process.send?.({ address: [...address] });
      }),
  });
  /** @type {any} */ (device).setGroup('dp', group); // internal: processes of a World are given theirs
  const plans = await planPrograms(model, config, { accumulates: false, target: 1 });
  const stepper = new Stepper(device, model, config, plans);
  await stepper.initialize(1);
  if (task.weights && rank === 0) await writeWeights(stepper, task.weights);

  const bytes = readFileSync(task.tokens);
  const tokens = new Int32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
  /** @param {number} first @param {number} count */
  const rows = (first, count) =>
    batchFromRows(
      Array.from({ length: count }, (_, i) => [...tokens.subarray((first + i) * seqLen, (first + i + 1) * seqLen)]),
      { seqLen, mtpDepth: model.mtpDepth },
    );
  const losses = [];
  let sent = 0;
  for (let step = 0; step < steps; step++) {
    // Warm-up, then down to a tenth: where it ends is then less a matter of chance.
    const lr = task.lr * Math.min(1, (step + 1) / task.warmup, 1 - (0.9 * step) / steps);
    const inputs = { lr, mtpWeight: 0, balanceWeight: 0, routerBiasSpeed: 0, seed: 1, step };
    const before = group.wireBytes().sent;
    const { loss } = await stepper.update([rows(step * batch + rank * rowsOfRank, rowsOfRank)], inputs);
    sent = group.wireBytes().sent - before;
    losses.push(loss);
  }
  let total = 0;
  for (let i = rank * rowsOfRank; i < evalRows; i += batch) {
    total += await stepper.evaluate(rows(steps * batch + i, rowsOfRank));
  }
  process.send?.({ done: { losses, sent, evalLoss: total } });
  stepper.dispose();
  device.dispose();
  group.dispose();
  process.disconnect();
}

/** @param {Stepper} stepper @param {string} path */
async function writeWeights(stepper, path) {
  const parts = [];
  const manifest = [];
  for (const { name, shape, parts: own, decay, trainable } of stepper.parameters.values()) {
    const values = await /** @type {any} */ (stepper.tensors.get(name)).toFloat32();
    parts.push(Buffer.from(values.buffer, values.byteOffset, values.byteLength));
    manifest.push({
      name,
      shape,
      decay,
      trainable,
      parts: own.map((part) => ({ name: part.name, shape: part.shape })),
    });
  }
  writeFileSync(path, Buffer.concat(parts));
  writeFileSync(`${path}.json`, JSON.stringify(manifest));
}
