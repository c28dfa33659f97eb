// `npm run gpu:verify`: everything that a machine with a GPU can tell of the CUDA backend, in one command that asks nothing
// and keeps what it has when a part fails. Builds the kernels where they are not built, or not of these sources, runs
// `hadal cuda-selftest` and then every op's case table on the device, and writes bench/results/gpu-<card>.{json,md}, which
// are meant to be committed: once before the case tables, in case that they never end, and again after them.
// `npm run gpu:verify -- cuda-sim` goes the same way on the simulated device, and writes nothing into bench/results.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { findToolkit } from './cuda/toolkit.mjs';

const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const device = process.argv[2] ?? 'cuda:0';
const folder = mkdtempSync(path.join(tmpdir(), 'hadal-gpu-'));

/** Of what runs on the device: a kernel that never ends must not cost hours. */
const limitMs = 20 * 60_000;

/** @param {readonly string[]} args @param {Record<string, string>} [env] @param {number} [timeout] 0: none */
const node = (args, env = {}, timeout = limitMs) =>
  spawnSync(process.execPath, [...args], {
    cwd: root,
    stdio: ['ignore', 2, 2],
    env: { ...process.env, ...env },
    timeout,
    killSignal: 'SIGKILL',
  }).status;

// Without nvcc, a library that was brought along is taken for what it is.
const isBuilt = existsSync(path.join(root, 'build/Release/hadal-cuda.so'));
if (device !== 'cuda-sim' && (!isBuilt || findToolkit() !== null)) {
  if (node(['scripts/build-cuda.mjs'], {}, 0) !== 0) {
    console.error('gpu:verify: the CUDA kernels do not build here (above); they need CUDA 13’s nvcc in PATH');
    process.exit(1);
  }
}
const selftest = node(['dist/cli/main.js', 'cuda-selftest', '--device', device, '--out', folder]);
const file = path.join(folder, 'selftest.json');
if (!existsSync(file)) process.exit(selftest ?? 1);
const report = JSON.parse(readFileSync(file, 'utf8'));
const card = String(report.card.name)
  .toLowerCase()
  .replaceAll(/[^a-z0-9]+/g, '-');
const out = device === 'cuda-sim' ? folder : path.join(root, 'bench/results');
mkdirSync(out, { recursive: true });

/** @param {readonly string[]} lines */
function write(lines) {
  writeFileSync(path.join(out, `gpu-${card}.json`), `${JSON.stringify(report, null, 1)}\n`);
  writeFileSync(path.join(out, `gpu-${card}.md`), `${lines.join('\n')}\n`);
}

const selftestLines = readFileSync(path.join(folder, 'selftest.md'), 'utf8').trimEnd().split('\n');
write(selftestLines);
const tests = path.join(folder, 'cases.json');
console.error(`every op's case table on ${device}, against the CPU's references …`);
const chosen = device === 'cuda-sim' ? ['test/ops/rms-norm.test.ts', 'test/ops/swiglu.test.ts'] : ['test/ops'];
// The references in JavaScript take most of the time.
const workers = `--maxWorkers=${Math.min(8, availableParallelism())}`;
node(['node_modules/vitest/vitest.mjs', 'run', workers, '--reporter=json', `--outputFile=${tests}`, ...chosen], {
  HADAL_TEST_DEVICE: device,
  HADAL_CUDA_SYNC: '1', // an error names the op at fault
});
const counts = existsSync(tests) ? JSON.parse(readFileSync(tests, 'utf8')) : { numPassedTests: 0, numFailedTests: 1 };
const failures = (counts.testResults ?? []).flatMap((/** @type {any} */ suite) =>
  suite.assertionResults
    .filter((/** @type {any} */ one) => one.status === 'failed')
    .map((/** @type {any} */ one) => `${one.fullName}: ${one.failureMessages.join(' ').slice(0, 500)}`),
);
const { numPassedTests: passed = 0, numFailedTests: failed = 0, numPendingTests: skipped = 0 } = counts;
report.caseTables = { passed, failed, skipped, failures };
const lines = [
  ...selftestLines,
  '',
  `Case tables of the ops: ${passed} passed, ${failed} failed, ${skipped} skipped.`,
  ...failures.slice(0, 50).map((/** @type {string} */ failure) => `- ${failure.replaceAll('\n', ' ')}`),
];
write(lines);
console.log(lines.join('\n'));
if (device === 'cuda-sim') rmSync(folder, { recursive: true });
else console.log(`\nwritten: bench/results/gpu-${card}.json and .md; please commit both`);
process.exitCode = selftest === 0 && failed === 0 ? 0 : 1;
