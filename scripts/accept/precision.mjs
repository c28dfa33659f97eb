// bf16 training follows fp32: the same run from the same seed in both ends with nearly the same held-out loss.
//
//   npm run accept -- precision [preset=shallow] [steps=300] [most difference=0.01]
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { presets } from '../../dist/cli/presets/presets.js';
import { train } from '../../dist/train/train.js';

const [name = 'shallow', steps = '300', most = '0.01'] = process.argv.slice(2);
const preset = presets[/** @type {keyof typeof presets} */ (name)]();
const folder = mkdtempSync(join(tmpdir(), 'hadal-precision-'));

/** @param {'fp32' | 'bf16'} dtype */
async function run(dtype) {
  const out = join(folder, dtype);
  const data = { ...preset.data, cache: join(folder, 'data') };
  const began = performance.now();
  for await (const event of train({ ...preset, data, out, steps: Number(steps), dtype })) {
    if (event.type === 'evaluation') {
      const seconds = ((performance.now() - began) / 1000).toFixed(0).padStart(4);
      console.log(`${seconds} s  ${dtype}, step ${event.step}: held-out loss ${event.evalLoss.toFixed(4)}`);
    }
    if (event.type !== 'end') continue;
    const resolved = JSON.parse(readFileSync(join(out, 'config.json'), 'utf8'));
    return { evalLoss: event.evalLoss, initial: event.initialEvalLoss ?? Number.NaN, resolved: resolved.dtype };
  }
  throw new Error('the run did not end');
}

try {
  console.log(`preset ${name}, ${steps} steps, load ${loadavg()[0]?.toFixed(1)}`);
  const [fp32, bf16] = [await run('fp32'), await run('bf16')];
  const difference = Math.abs(bf16.evalLoss - fp32.evalLoss) / fp32.evalLoss;
  const checks = [
    [
      `the runs were in fp32 and bf16 (${fp32.resolved}, ${bf16.resolved})`,
      fp32.resolved === 'fp32' && bf16.resolved === 'bf16',
    ],
    [`their losses are not the same numbers (${fp32.evalLoss}, ${bf16.evalLoss})`, fp32.evalLoss !== bf16.evalLoss],
    [`fp32 learns: ${fp32.initial.toFixed(4)} to ${fp32.evalLoss.toFixed(4)}`, fp32.evalLoss < fp32.initial],
    [`they differ by ${(100 * difference).toFixed(2)} %, at most ${100 * Number(most)} %`, difference <= Number(most)],
  ];
  for (const [text, holds] of checks) console.log(`${holds ? 'ok    ' : 'FAILED'} ${text}`);
  if (checks.some(([, holds]) => !holds)) process.exitCode = 1;
} finally {
  rmSync(folder, { recursive: true });
}
