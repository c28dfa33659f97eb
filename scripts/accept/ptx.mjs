// The PTX that nvcc makes of the CUDA sources, run by the interpreter of native/ptx/ on the case tables of all ops: what
// ships is executed, not what the host's compiler makes of the same sources.
//
//   npm run accept -- ptx [family …]
//
// With all families, 20 steps of the test preset follow, whose losses are to be the processor's.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { presets } from '../../dist/cli/presets/presets.js';
import { train } from '../../dist/train/train.js';
import { emitPtx, nvcc } from '../ptx.mjs';

const root = fileURLToPath(new URL('../..', import.meta.url));
const interpreter = path.join(root, 'build/Release/hadal-ptx');
const families = process.argv.slice(2);
const dtypes = ['fp32', 'bf16', 'fp16'];

async function main() {
  if (nvcc === undefined) return console.log('skipped: nvcc is not installed');
  const made = await emitPtx();
  if (made.failed.length > 0) throw new Error(`${made.failed.join(', ')}: no PTX`);
  console.log(`${made.kernels} kernels of ${made.sources} sources, ${(made.bytes / 2 ** 20).toFixed(1)} MiB of PTX`);
  const checked = spawnSync(interpreter, ['check', made.folder], { encoding: 'utf8' });
  if (checked.status !== 0) throw new Error(checked.stderr || String(checked.error));
  console.log(`all are understood: ${checked.stdout.split('\n')[0]}`);

  const folder = mkdtempSync(path.join(tmpdir(), 'hadal-ptx-'));
  const [tests, launches] = [path.join(folder, 'tests.json'), path.join(folder, 'launches')];
  try {
    const files = families.length === 0 ? ['test/ops/'] : families.map((family) => `test/ops/${family}.test.ts`);
    const began = performance.now();
    const run = spawnSync(
      process.execPath,
      ['node_modules/vitest/vitest.mjs', 'run', '--testTimeout', '600000', ...files],
      {
        cwd: root,
        env: {
          ...process.env,
          HADAL_TEST_DEVICE: 'cuda-sim',
          HADAL_SIM_PTX: made.folder,
          HADAL_SIM_PTX_REPORT: launches,
          HADAL_TEST_REPORT: tests,
        },
        stdio: ['ignore', 'pipe', 'inherit'],
        encoding: 'utf8',
        maxBuffer: 2 ** 30,
      },
    );
    const seconds = ((performance.now() - began) / 1000).toFixed(0);
    if (!existsSync(tests)) throw new Error(`the tests did not end: ${run.stdout}`);
    const failures = printCases(JSON.parse(readFileSync(tests, 'utf8')));
    printLaunches(readFileSync(launches, 'utf8'), made.folder);
    console.log(`${seconds} s`);
    if (families.length === 0) {
      process.env.HADAL_SIM_PTX = made.folder; // read when the simulated GPU's library is opened
      for (const [dtype, most] of /** @type {const} */ ([
        ['fp32', 1e-5],
        ['bf16', 1e-2],
      ])) {
        const [expected, got] = [await lossesOf('cpu', dtype, folder), await lossesOf('cuda-sim', dtype, folder)];
        const worst = Math.max(...expected.map((loss, step) => Math.abs((got[step] ?? Number.NaN) / loss - 1)));
        const line = `20 steps in ${dtype}: losses ${worst.toExponential(1)} from the processor's, allowed ${most}`;
        console.log(line);
        if (!(worst <= most)) failures.push(line);
      }
    }
    if (failures.length > 0) {
      for (const failure of failures) console.error(failure);
      process.exitCode = 1;
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/**
 * @param {string} device
 * @param {'fp32' | 'bf16'} dtype
 * @param {string} folder
 * @returns {Promise<number[]>} of 20 steps
 */
async function lossesOf(device, dtype, folder) {
  const preset = presets.test();
  const out = path.join(folder, `${device}-${dtype}`);
  const data = { ...preset.data, cache: path.join(folder, 'data') };
  for await (const event of train({ ...preset, data, out, steps: 20, device, dtype })) void event;
  const lines = readFileSync(path.join(out, 'metrics.jsonl'), 'utf8').trim().split('\n');
  return lines.map((line) => JSON.parse(line).loss).filter((loss) => loss !== undefined);
}

/**
 * @param {{ testResults: { name: string, message: string, assertionResults: { title: string, status: string, failureMessages: string[] }[] }[] }} report
 * @returns {string[]} what failed
 */
function printCases({ testResults }) {
  /** @type {string[]} */
  const failures = [];
  const totals = { passed: 0, failed: 0, skipped: 0 };
  console.log(
    ['family'.padEnd(24), ...[...dtypes, 'other', 'failed', 'skipped'].map((name) => name.padStart(8))].join(''),
  );
  for (const { name, message, assertionResults } of testResults.sort((a, b) => (a.name < b.name ? -1 : 1))) {
    const family = path.basename(name, '.test.ts');
    /** @type {Record<string, number>} */
    const counts = Object.fromEntries([...dtypes, 'other', 'failed', 'skipped'].map((key) => [key, 0]));
    if (assertionResults.length === 0) failures.push(`${family}: ${message}`);
    for (const { title, status, failureMessages } of assertionResults) {
      const outcome = status === 'passed' || status === 'failed' ? status : 'skipped';
      totals[outcome] += 1;
      const key =
        outcome === 'passed' ? (dtypes.find((dtype) => `${title} `.includes(` ${dtype} `)) ?? 'other') : outcome;
      counts[key] = (counts[key] ?? 0) + 1;
      if (outcome === 'failed') failures.push(`${family}: ${title}: ${failureMessages[0]?.split('\n    at ')[0]}`);
    }
    console.log([family.padEnd(24), ...Object.values(counts).map((count) => String(count || '').padStart(8))].join(''));
  }
  console.log(`${totals.passed} cases passed, ${totals.failed} failed, ${totals.skipped} skipped`);
  return failures;
}

/** @param {string} lines @param {string} folder of all PTX */
function printLaunches(lines, folder) {
  const names = new Set();
  const forms = new Set();
  let [launches, instructions] = [0, 0];
  for (const line of lines.split('\n')) {
    const [kind, , ...rest] = line.split(' ');
    if (kind === 'kernel') {
      names.add(rest[0]);
      for (const form of rest.slice(1)) forms.add(form);
    } else if (kind === 'launch') {
      launches += 1;
      instructions += Number(rest[0]);
    }
  }
  const entries = spawnSync(interpreter, ['names', folder], { encoding: 'utf8' }).stdout.trim().split('\n');
  const rest = entries.map((line) => line.split('\t')).filter(([mangled]) => !names.has(mangled));
  for (const [, name] of rest) console.log(`not launched: ${name}`);
  console.log(
    `${launches} launches of ${entries.length - rest.length} kernels (of ${entries.length}), ${(instructions / 1e6).toFixed(0)} million instructions of threads, ${forms.size} forms of instructions`,
  );
}

await main();
