// A loss spike is rolled back: a run that is given garbage for some updates ends as well as one that is not.
//
//   npm run accept -- spike [preset=shallow] [steps=300] [most difference=0.01]
import { mkdtempSync, rmSync } from 'node:fs';
import { loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { presets } from '../../dist/cli/presets/presets.js';
import { train } from '../../dist/train/train.js';

const [name = 'shallow', steps = '300', most = '0.01'] = process.argv.slice(2);
const preset = presets[/** @type {keyof typeof presets} */ (name)]();
const folder = mkdtempSync(join(tmpdir(), 'hadal-spike-'));
const every = Math.ceil(Number(steps) / 6);
/** Updates, of data: what they read is garbage. */
const [first, last] = [Math.round(0.6 * Number(steps)), Math.round(0.6 * Number(steps)) + 1];

// What only tests may do is not in the types.
const garbage = {
  alterWindow: (/** @type {readonly import('../../dist/data/batch.js').Batch[]} */ window) => {
    const tokens = Number(preset.batch) * preset.seqLen;
    const random = (/** @type {Int32Array} */ array) => array.map((x) => (x < 0 ? x : Math.floor(Math.random() * 256)));
    return window.map((batch) => {
      const update = Math.ceil((batch.cursor?.token ?? 0) / tokens);
      const isSpoilt = update >= first && update <= last;
      return isSpoilt ? { ...batch, tokens: random(batch.tokens), labels: random(batch.labels) } : batch;
    });
  },
};

/**
 * @param {string} out
 * @param {{ alterWindow?: (window: readonly import('../../dist/data/batch.js').Batch[]) => readonly object[] }} hooks
 */
async function run(out, hooks) {
  const config = { ...preset, data: { ...preset.data, cache: join(folder, 'data') }, out: join(folder, out) };
  const rollbacks = [];
  const began = performance.now();
  for await (const event of train(
    {
      ...config,
      steps: Number(steps),
      checkpoint: { every },
      watch: { rules: [{ metric: 'lossSpike', above: 6, action: 'rollback' }] },
    },
    /** @type {any} */ (hooks),
  )) {
    const seconds = ((performance.now() - began) / 1000).toFixed(0).padStart(4);
    if (event.type === 'warning') console.log(`${seconds} s  ${out}, step ${event.step}: ${event.message}`);
    if (event.type === 'evaluation') {
      console.log(`${seconds} s  ${out}, step ${event.step}: held-out loss ${event.evalLoss.toFixed(4)}`);
    }
    if (event.type === 'rollback') {
      rollbacks.push(event);
      console.log(`${seconds} s  ${out}: back from step ${event.from} to step ${event.step}`);
    }
    if (event.type === 'end') return { evalLoss: event.evalLoss, rollbacks, steps: event.steps };
  }
  throw new Error('the run did not end');
}

try {
  console.log(
    `preset ${name}, ${steps} steps, updates ${first} to ${last} are garbage, load ${loadavg()[0]?.toFixed(1)}`,
  );
  const [clean, rolled] = [await run('clean', {}), await run('spike', garbage)];
  const difference = Math.abs(rolled.evalLoss - clean.evalLoss) / clean.evalLoss;
  const checks = [
    [`the clean run never went back (${clean.rollbacks.length})`, clean.rollbacks.length === 0],
    [
      `the other one went back from where the garbage began (${rolled.rollbacks.map(({ from }) => from)})`,
      rolled.rollbacks[0]?.from === first,
    ],
    [`both made ${steps} updates (${clean.steps}, ${rolled.steps})`, clean.steps === rolled.steps],
    [
      `their held-out losses ${clean.evalLoss.toFixed(4)} and ${rolled.evalLoss.toFixed(4)} differ by ${(100 * difference).toFixed(2)} %, at most ${100 * Number(most)} %`,
      difference <= Number(most),
    ],
  ];
  for (const [text, holds] of checks) console.log(`${holds ? 'ok    ' : 'FAILED'} ${text}`);
  if (checks.some(([, holds]) => !holds)) process.exitCode = 1;
} finally {
  rmSync(folder, { recursive: true });
}
