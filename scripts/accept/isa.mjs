// The tests of kernels, goldens and passes under every instruction set that this machine can run.
//
//   npm run accept -- isa [tests, default below…]
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../../', import.meta.url));
const given = process.argv.slice(2);
const tests =
  given.length > 0 ? given : ['ops', 'native', 'goldens', 'losses', 'passes'].map((name) => `test/${name}/`);
const isas = ['portable', 'avx2', 'avx512', 'avx512bf16'];
const folder = mkdtempSync(path.join(tmpdir(), 'hadal-isa-'));

/** The instruction set that kernels use when they may use so much. @param {string} isa */
function usedUnder(isa) {
  const script = "import { loadAddon } from './dist/addon/addon.js'; console.log(loadAddon().features().isa)";
  const env = { ...process.env, HADAL_ISA: isa };
  return spawnSync(process.execPath, ['--input-type=module', '-e', script], {
    cwd: root,
    env,
    encoding: 'utf8',
  }).stdout.trim();
}

/** @param {string} isa */
function run(isa) {
  const report = path.join(folder, `${isa}.json`);
  const vitest = path.join(root, 'node_modules', 'vitest', 'vitest.mjs');
  const env = { ...process.env, HADAL_ISA: isa, HADAL_TEST_REPORT: report };
  spawnSync(process.execPath, [vitest, 'run', ...tests], { cwd: root, env, stdio: ['ignore', 'ignore', 'ignore'] });
  if (!existsSync(report)) return { passed: 0, skipped: 0, failed: ['vitest itself'] };
  /** @type {{ numPassedTests: number, numPendingTests: number, testResults: { name: string, message: string, assertionResults: { status: string, fullName: string }[] }[] }} */
  const { numPassedTests, numPendingTests, testResults } = JSON.parse(readFileSync(report, 'utf8'));
  const failed = testResults.flatMap(({ name, message, assertionResults }) => {
    const file = path.relative(root, name);
    if (assertionResults.length === 0) return [`${file}: ${message}`];
    return assertionResults.filter(({ status }) => status === 'failed').map(({ fullName }) => `${file}: ${fullName}`);
  });
  return { passed: numPassedTests, skipped: numPendingTests, failed };
}

try {
  for (const isa of isas) {
    if (usedUnder(isa) !== isa) {
      console.log(`skipped ${isa}: not on this machine`);
      continue;
    }
    const { passed, skipped, failed } = run(isa);
    const holds = failed.length === 0 && passed > 0;
    console.log(
      `${holds ? 'ok     ' : 'FAILED '} ${isa}: ${passed} passed, ${failed.length} failed, ${skipped} skipped`,
    );
    for (const test of failed) console.log(`        ${test}`);
    if (!holds) process.exitCode = 1;
  }
} finally {
  rmSync(folder, { recursive: true });
}
