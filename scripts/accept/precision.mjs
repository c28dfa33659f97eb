// Training in 16 bits follows fp32: the same run from the same seed ends in each with nearly the same held-out loss. What
// emulated fp8 costs is reported.
//
//   npm run accept -- precision [preset=shallow] [steps=300] [most difference=0.005]
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { presets } from '../../dist/cli/presets/presets.js';
import { train } from '../../dist/train/train.js';

const [name = 'shallow', steps = '300', most = '0.005'] = process.argv.slice(2);
const preset = presets[/** @type {keyof typeof presets} */ (name)]();
const folder = mkdtempSync(join(tmpdir(), 'hadal-precision-'));

/**
 * @param {string} label
 * @param {Partial<import('../../dist/train/options.js').TrainOptions>} precision
 */
async function run(label, precision) {
  const out = join(folder, label);
  const data = { ...preset.data, cache: join(folder, 'data') };
  const began = performance.now();
  for await (const event of train({ ...preset, data, out, steps: Number(steps), ...precision })) {
    if (event.type === 'evaluation') {
      const seconds = ((performance.now() - began) / 1000).toFixed(0).padStart(4);
      console.log(`${seconds} s  ${label}, step ${event.step}: held-out loss ${event.evalLoss.toFixed(4)}`);
    }
    if (event.type !== 'end') continue;
    const lines = (/** @type {string} */ file) => readFileSync(join(out, file), 'utf8').trim().split('\n');
    const updates = lines('metrics.jsonl')
      .map((line) => JSON.parse(line))
      .filter(({ loss }) => loss !== undefined);
    return {
      label,
      dtype: JSON.parse(lines('config.json').join('\n')).dtype,
      evalLoss: event.evalLoss,
      initial: event.initialEvalLoss ?? Number.NaN,
      skipped: updates.filter(({ skipped }) => skipped).length,
      scales: updates.map(({ lossScale }) => lossScale),
    };
  }
  throw new Error('the run did not end');
}

/** @param {number} share */
const percent = (share) => `${(100 * share).toFixed(2)} %`;

try {
  console.log(`preset ${name}, ${steps} steps, load ${loadavg()[0]?.toFixed(1)}`);
  const fp32 = await run('fp32', { dtype: 'fp32' });
  const bf16 = await run('bf16', { dtype: 'bf16' });
  const fp16 = await run('fp16', { dtype: 'fp16' });
  const fp8 = [
    await run('fp8', { dtype: 'fp8' }),
    await run('fp8, powers of two', { dtype: 'fp8', precision: { fp8Scale: 'power-of-two' } }),
  ];
  const all = [fp32, bf16, fp16, ...fp8];
  const losses = all.map(({ evalLoss }) => evalLoss);
  const wide = [fp32, bf16, fp16].map(({ evalLoss }) => evalLoss);
  const difference = Math.max(...wide) / Math.min(...wide) - 1;
  const scales = fp16.scales.map(Number);
  const checks = [
    [
      `the runs were in ${all.map(({ dtype }) => dtype).join(', ')}`,
      all.every(({ label, dtype }) => label.startsWith(dtype)),
    ],
    [`their losses are not the same numbers (${losses.join(', ')})`, new Set(losses).size === all.length],
    [`fp32 learns: ${fp32.initial.toFixed(4)} to ${fp32.evalLoss.toFixed(4)}`, fp32.evalLoss < fp32.initial],
    [
      `fp16 scaled its loss by ${Math.min(...scales)} to ${Math.max(...scales)} and skipped ${fp16.skipped} updates`,
      scales.every((scale) => scale > 0) && fp16.skipped < Number(steps) / 10,
    ],
    [
      `fp32, bf16 and fp16 differ by ${percent(difference)}, at most ${percent(Number(most))}`,
      difference <= Number(most),
    ],
  ];
  for (const [text, holds] of checks) console.log(`${holds ? 'ok    ' : 'FAILED'} ${text}`);
  for (const { label, evalLoss } of fp8)
    console.log(
      `       ${label}: ${percent(evalLoss / bf16.evalLoss - 1)} from bf16, ${percent(evalLoss / fp32.evalLoss - 1)} from fp32`,
    );
  if (checks.some(([, holds]) => !holds)) process.exitCode = 1;
} finally {
  rmSync(folder, { recursive: true });
}
