// Every op's case table on the simulated GPU: in three orders of threads, and its kernels' calls again under AddressSanitizer
// and ThreadSanitizer; and the planted faults. Prints the count of cases by op, dtype and mode.
//
//   npm run accept -- cuda-sim [tests, default test/ops/]
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../../', import.meta.url));
const given = process.argv.slice(2);
const tests = given.length > 0 ? given : ['test/ops/'];
const orders = ['forward', 'reverse', 'random:1'];
const folder = mkdtempSync(path.join(tmpdir(), 'hadal-cuda-sim-'));
const vitest = path.join(root, 'node_modules', 'vitest', 'vitest.mjs');
/** @type {Map<string, Map<string, number>>} cases by kernel or test file and dtype, then by mode */
const counts = new Map();
let isAllWell = true;

/** @param {string} row @param {string} mode @param {number} cases */
function count(row, mode, cases) {
  const modes = counts.get(row) ?? new Map();
  counts.set(row, modes.set(mode, (modes.get(mode) ?? 0) + cases));
}

/** @param {boolean} holds @param {string} what @param {string[]} details */
function tell(holds, what, details = []) {
  console.log(`${holds ? 'ok     ' : 'FAILED '} ${what}`);
  for (const line of details) console.log(`        ${line}`);
  if (!holds) isAllWell = false;
}

/** The tests on the simulated GPU, by hadal's own products, and what their kernels were called with. @param {string} order */
function runTests(order) {
  const report = path.join(folder, `${order}.json`);
  const env = {
    ...process.env,
    HADAL_TEST_DEVICE: 'cuda-sim',
    HADAL_CUBLASLT: 'none',
    HADAL_SIM_ORDER: order,
    HADAL_TEST_REPORT: report,
    ...(order === 'forward' ? { HADAL_SIM_RECORD: path.join(folder, 'calls') } : {}),
  };
  spawnSync(process.execPath, [vitest, 'run', ...tests], { cwd: root, env, stdio: 'ignore' });
  if (!existsSync(report)) return tell(false, `${order}: vitest itself`);
  /** @type {{ numPassedTests: number, numPendingTests: number, testResults: { name: string, message: string, assertionResults: { status: string, fullName: string }[] }[] }} */
  const { numPassedTests, numPendingTests, testResults } = JSON.parse(readFileSync(report, 'utf8'));
  const failed = [];
  for (const { name, message, assertionResults } of testResults) {
    const file = path.basename(name, '.test.ts');
    if (assertionResults.length === 0) failed.push(`${file}: ${message}`);
    for (const { status, fullName } of assertionResults) {
      if (status === 'failed') failed.push(`${file}: ${fullName}`);
      const dtype = /\b(fp32|bf16|fp16)$/.exec(fullName)?.[1] ?? 'other';
      if (status === 'passed') count(`test ${file} ${dtype}`, order, 1);
    }
  }
  tell(
    failed.length === 0 && numPassedTests > 0,
    `${order}: ${numPassedTests} passed, ${failed.length} failed, ${numPendingTests} skipped`,
    failed,
  );
}

/** The recorded calls, by kernels compiled with a sanitizer. @param {string} sanitizer @param {string} replayOrders */
function replay(sanitizer, replayOrders) {
  const target = `hadal-sim-replay-${sanitizer}`;
  const built = spawnSync('cmake', ['--build', path.join(root, 'build'), '--target', target], { encoding: 'utf8' });
  if (built.status !== 0) return tell(false, `${target} could not be built`, [built.stdout.slice(-2000)]);
  const calls = readdirSync(folder).filter((name) => name.startsWith('calls.'));
  let cases = 0;
  for (const file of calls) {
    const env = { ...process.env, ASAN_OPTIONS: 'detect_leaks=0', TSAN_OPTIONS: 'halt_on_error=1:atexit_sleep_ms=0' };
    const run = spawnSync(path.join(root, 'build', 'Release', target), [replayOrders, path.join(folder, file)], {
      env,
      encoding: 'utf8',
      maxBuffer: 1 << 28,
    });
    for (const line of run.stdout.split('\n').filter((text) => text !== '')) {
      const { kernel, dtype, cases: here } = JSON.parse(line);
      count(`kernel ${kernel} ${dtype}`, sanitizer, here);
      cases += here;
    }
    if (run.status !== 0) tell(false, `${sanitizer}: ${file}`, run.stderr.split('\n').slice(0, 60));
  }
  tell(cases > 0, `${sanitizer}: ${cases} calls of kernels, in order ${replayOrders}`);
}

try {
  for (const order of orders) runTests(order);
  replay('none', 'random:2,random:3');
  replay('address', 'forward,random:4');
  replay('thread', 'forward');
  const planted = spawnSync(process.execPath, [vitest, 'run', 'test/sim'], { cwd: root, encoding: 'utf8' });
  tell(planted.status === 0, 'planted faults are found', planted.status === 0 ? [] : planted.stdout.split('\n'));
  const modes = [...orders, 'none', 'address', 'thread'];
  console.log(`\n${'cases'.padEnd(44)}${modes.map((mode) => mode.padStart(10)).join('')}`);
  for (const row of [...counts.keys()].sort()) {
    const numbers = modes.map((mode) => String(counts.get(row)?.get(mode) ?? 0).padStart(10));
    console.log(`${row.padEnd(44)}${numbers.join('')}`);
  }
} finally {
  rmSync(folder, { recursive: true });
}
if (!isAllWell) process.exitCode = 1;
