// Whole training on a GPU, by default the simulated one, gives what the processor gives: the test preset in three number formats,
// with and without cuBLASLt, with and without CUDA graphs, and on two ranks.
//
//   npm run accept -- cuda-train [device=cuda-sim] [steps=20]
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const [device = 'cuda-sim', steps = '20'] = process.argv.slice(2);
const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'hadal-cuda-train-'));
let failures = 0;
let runs = 0;

/**
 * Losses and loss scales of a run.
 *
 * @param {string} on
 * @param {string} dtype
 * @param {string[]} [args]
 * @param {Record<string, string>} [env]
 */
function updates(on, dtype, args = [], env = {}) {
  const out = join(folder, `${runs++}`);
  const common = ['train', '--preset', 'test', '--device', on, '--dtype', dtype, '--steps', steps, '--out', out];
  const { status, stderr } = spawnSync(process.execPath, [main, ...common, ...args], {
    encoding: 'utf8',
    env: { ...process.env, ...env },
  });
  if (status !== 0) throw new Error(`${on} ${dtype} ${args.join(' ')}: status ${status}: ${stderr.slice(-500)}`);
  const lines = readFileSync(join(out, 'metrics.jsonl'), 'utf8').trim().split('\n');
  return lines.map((line) => JSON.parse(line)).filter(({ loss }) => loss !== undefined);
}

/** @param {boolean} good @param {string} text */
function check(good, text) {
  if (!good) failures += 1;
  console.log(`${good ? 'ok    ' : 'FAILED'} ${text}`);
}

/**
 * @param {string} label
 * @param {ReturnType<typeof updates>} expected
 * @param {ReturnType<typeof updates>} got
 * @param {number} allowed
 */
function compare(label, expected, got, allowed) {
  const differences = expected.map(({ loss }, i) => Math.abs(loss - (got[i]?.loss ?? Number.NaN)) / loss);
  const worst = Math.max(...differences);
  const scales = expected.every(
    ({ lossScale, skipped }, i) => lossScale === got[i]?.lossScale && skipped === got[i]?.skipped,
  );
  check(
    worst <= allowed && got.length === Number(steps) && scales,
    `${label}: ${steps} losses differ by at most ${worst.toExponential(1)} (allowed ${allowed}), loss scale ${got.at(-1)?.lossScale}`,
  );
}

try {
  const allowed = { fp32: 1e-5, bf16: 1e-2, fp16: 1e-2 };
  for (const dtype of /** @type {const} */ (['fp32', 'bf16', 'fp16'])) {
    const expected = updates('cpu', dtype);
    const got = updates(device, dtype);
    compare(`${dtype}`, expected, got, allowed[dtype]);
    compare(
      `${dtype}, hadal's own products`,
      expected,
      updates(device, dtype, [], { HADAL_CUBLASLT: 'none' }),
      allowed[dtype],
    );
    const launched = updates(device, dtype, [], { HADAL_CUDA_GRAPHS: '0' });
    compare(`${dtype}, replayed against launched`, launched, got, 0);
    compare(`${dtype}, two ranks`, expected, updates(device, dtype, ['--nproc', '2']), allowed[dtype]);
  }
} finally {
  rmSync(folder, { recursive: true });
}
console.log(failures === 0 ? 'good' : `${failures} FAILED`);
process.exitCode = failures > 0 ? 1 : 0;
