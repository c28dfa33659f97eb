// One process of a part of a run: trains from where the run stands to a step, and writes what it read and computed.
//   node world-size-part.mjs '{"options": {…}, "last": 17, "log": "path"}'
import { createHash } from 'node:crypto';
import { appendFileSync } from 'node:fs';
import { joinWorld } from '../../../dist/dist/world.js';
import { train } from '../../../dist/train/train.js';

const { options, last, log } = JSON.parse(String(process.argv[2]));
const write = (/** @type {object} */ line) => appendFileSync(log, `${JSON.stringify(line)}\n`);

/** Hashes of the rows that are not padding. @param {import('../../../dist/data/batch.js').Batch} batch */
function rowsOf({ batch, seqLen, tokens, labels, docIds }) {
  const rows = Array.from({ length: batch }, (_, row) =>
    [docIds, tokens, labels].map((all) => all.subarray(row * seqLen, (row + 1) * seqLen)),
  );
  const filled = rows.filter(([ids]) => ids?.some((id) => id >= 0));
  return filled.map((row) => createHash('sha256').update(row.join('|')).digest('hex').slice(0, 16));
}

const world = await joinWorld();
const rank = world?.rank ?? 0;
const stop = new AbortController();
let step = 0;
/** @type {string[][]} */
const windows = [];
try {
  const hooks = {
    world,
    signal: stop.signal,
    alterWindow: (/** @type {readonly import('../../../dist/data/batch.js').Batch[]} */ window) => {
      windows.push(window.flatMap(rowsOf));
      return window;
    },
  };
  for await (const event of train(options, hooks)) {
    if (event.type === 'start') {
      step = event.step;
      if (rank === 0) write({ start: step, notes: event.notes });
    }
    if (event.type !== 'step') continue;
    write({ step: event.step, rows: windows[event.step - step - 1] });
    if (rank === 0) write({ step: event.step, loss: event.loss, expertImbalance: event.expertImbalance });
    // Of several processes one more update is made, with which all learn of it.
    if (event.step === last - 1 && last < options.steps) stop.abort();
  }
} catch (error) {
  if (/** @type {{ code?: string }} */ (error).code !== 'HADAL_ERR_ABORTED') throw error;
}
