// Memory as planned against memory as measured: runs of several models, number formats, optimizers, accumulation and
// activation checkpointing, each in a process of its own. The plan is to equal the allocator's high-water mark within 1 %,
// plan and base of the process the most that was resident within 5 % or 64 MiB.
//
//   npm run accept -- memory [all | test]
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { loadAddon } from '../../dist/addon/addon.js';
import { presets } from '../../dist/cli/presets/presets.js';
import { residentBytes } from '../../dist/core/memory.js';
import { train } from '../../dist/train/train.js';

/** @typedef {import('../../dist/train/options.js').TrainOptions} TrainOptions */
/** @typedef {Omit<TrainOptions, 'out' | 'data' | 'steps'>} Sizes */
/** @typedef {{ planned: import('../../dist/train/events.js').MemoryTable, peak: number, resident: number }} Measured */

const deepseek = () => ({
  config: JSON.parse(readFileSync(new URL('../../bench/peers/deepseek-116m.json', import.meta.url), 'utf8')),
});
const { model: shallow } = presets.shallow();
const { model: gpt2 } = presets['gpt2-124m']();
const { model: tiny } = presets.test();

/** @type {Record<string, Record<string, Sizes>>} */
const runs = {
  all: {
    'DeepSeek 116 M, fp32, AdamW': { model: deepseek(), dtype: 'fp32', batch: 4, seqLen: 256 },
    'DeepSeek 116 M, bf16, AdamW, 2 × 2 rows, snapshots': {
      model: deepseek(),
      dtype: 'bf16',
      batch: 4,
      gradAccumulationSteps: 2,
      seqLen: 512,
      checkpoint: { every: 1 },
    },
    'DeepSeek 116 M, bf16, Muon, selective': {
      model: deepseek(),
      dtype: 'bf16',
      batch: 4,
      seqLen: 512,
      activationCheckpointing: 'selective',
      optimizer: { kind: 'muon' },
    },
    'GPT-2 124 M, fp32, SGD, every 3 layers, no snapshots': {
      model: gpt2,
      dtype: 'fp32',
      batch: 2,
      seqLen: 512,
      activationCheckpointing: { every: 3 },
      optimizer: { kind: 'sgd' },
      checkpoint: { every: 1, background: false },
    },
    'GPT-2 124 M, bf16, AdamW of bf16, EMA, 4 × 1 row, sqrt': {
      model: gpt2,
      dtype: 'bf16',
      batch: 4,
      gradAccumulationSteps: 4,
      seqLen: 1024,
      activationCheckpointing: 'sqrt',
      optimizer: { momentDtype: 'bf16', emaDecay: 0.99 },
    },
    'DeepSeek 7 M, fp16, Lion': { model: shallow, dtype: 'fp16', batch: 16, seqLen: 512, optimizer: { kind: 'lion' } },
  },
  test: {
    'tiny DeepSeek, 2 × 8 rows, snapshots': {
      model: tiny,
      batch: 16,
      gradAccumulationSteps: 2,
      seqLen: 128,
      checkpoint: { every: 1 },
    },
    'DeepSeek 7 M, bf16': { model: shallow, dtype: 'bf16', batch: 4, seqLen: 256 },
  },
};

const mib = (/** @type {number} */ bytes) => (bytes / 2 ** 20).toFixed(1);

/** Trains for some steps and says what that took. @param {TrainOptions} options @returns {Promise<Measured>} */
async function measure(options) {
  let planned;
  for await (const event of train(options)) if (event.type === 'start') planned = event.memory;
  const { peak } = residentBytes();
  if (!planned || peak === null) throw new Error('nothing was measured; this needs Linux');
  return { planned, peak: loadAddon().storageBytes().peak, resident: peak };
}

/** @param {string} set */
function measureAll(set) {
  const folder = mkdtempSync(join(tmpdir(), 'hadal-memory-'));
  let failed = 0;
  try {
    for (const [name, sizes] of Object.entries(runs[set] ?? {})) {
      const data = { sources: ['synthetic'], cache: join(folder, 'data') };
      /** @type {TrainOptions} */
      const options = { evaluation: { batches: 1 }, ...sizes, data, out: join(folder, 'run'), steps: 3, threads: 2 };
      const child = spawnSync(
        process.execPath,
        [fileURLToPath(new URL('../accept.mjs', import.meta.url)), 'memory', '--child', JSON.stringify(options)],
        { encoding: 'utf8' },
      );
      rmSync(options.out, { recursive: true, force: true });
      if (child.status !== 0) throw new Error(`${name}: ${child.stderr}`);
      const { planned, peak, resident } = /** @type {Measured} */ (JSON.parse(child.stdout));
      const allocatorError = planned.allocated / peak - 1;
      const difference = Math.abs(planned.total - resident);
      const holds = Math.abs(allocatorError) <= 0.01 && difference <= Math.max(0.05 * resident, 64 * 2 ** 20);
      failed += Number(!holds);
      console.log(
        `${holds ? 'ok    ' : 'FAILED'} ${name}: blocks ${mib(planned.allocated)} MiB planned, ${mib(peak)} at most (${(100 * allocatorError).toFixed(2)} %); process ${mib(planned.total)} MiB of which ${mib(planned.base ?? 0)} base, ${mib(resident)} resident at most (${(100 * (planned.total / resident - 1)).toFixed(1)} %, ${mib(difference)} MiB)`,
      );
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
  if (failed > 0) process.exitCode = 1;
}

const [set = 'all', options = ''] = process.argv.slice(2);
if (set === '--child') console.log(JSON.stringify(await measure(JSON.parse(options))));
else measureAll(set);
