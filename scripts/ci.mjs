// What .ci/run runs. Ends with the line `N passed, N failed[, N skipped]`, which counts tests and check steps.
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { hasOneDnn } from './build-native.mjs';

const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const deadline = Date.now() + 19 * 60_000;
const reports = mkdtempSync(path.join(os.tmpdir(), 'hadal-ci-'));
const total = { passed: 0, failed: 0, skipped: 0 };

function add({ passed = 0, failed = 0, skipped = 0 }) {
  total.passed += passed;
  total.failed += failed;
  total.skipped += skipped;
}

function run(title, script, args = [], env = {}) {
  console.log(`\n== ${title}`);
  const { status } = spawnSync(process.execPath, [script, ...args], {
    cwd: root,
    stdio: 'inherit',
    env: { ...process.env, ...env },
    timeout: Math.max(1, deadline - Date.now()),
  });
  return status === 0;
}

/** Runs a step that writes a report, and adds its counts. A step that fails and names no failure counts as one. */
function runReported(title, script, args, variable, read) {
  const report = path.join(reports, `${title.replaceAll(' ', '-')}.json`);
  const succeeded = run(title, script, args, { [variable]: report });
  const counts = existsSync(report) ? read(JSON.parse(readFileSync(report, 'utf8'))) : { failed: 0 };
  add(succeeded || counts.failed > 0 ? counts : { ...counts, failed: 1 });
}

/** Builds while checks and tests run, with what processors these leave idle. */
async function buildBeside(script, ...args) {
  const child = spawn(process.execPath, [script, ...args], { cwd: root, stdio: 'ignore' });
  if (child.pid !== undefined) os.setPriority(child.pid, os.constants.priority.PRIORITY_LOW);
  await once(child, 'exit');
}

function readVitest({ numPassedTests, numFailedTests, numPendingTests, numTodoTests }) {
  return { passed: numPassedTests, failed: numFailedTests, skipped: numPendingTests + numTodoTests };
}

const vitest = path.join(root, 'node_modules', 'vitest', 'vitest.mjs');
if (run('set-up', 'scripts/setup.mjs')) {
  add({ passed: 1 });
  // Debian's oneDNN is what is published; without it there is nothing to gate.
  if (hasOneDnn() && !spawnSync('dpkg', ['--version']).error) {
    add(run('prebuilt binary', 'scripts/prebuild.mjs') ? { passed: 1 } : { failed: 1 });
  } else {
    add({ skipped: 1 });
  }
  const building = buildBeside('scripts/build-native.mjs', '--sanitize');
  runReported('static checks', 'scripts/check.mjs', ['--all', '--quick'], 'HADAL_CHECK_REPORT', (counts) => counts);
  runReported('tests', vitest, ['run'], 'HADAL_TEST_REPORT', readVitest);
  await building; // if it failed, the next step says why
  runReported('tests under sanitizers', 'scripts/sanitize.mjs', [], 'HADAL_TEST_REPORT', readVitest);
} else {
  add({ failed: 1 });
}
rmSync(reports, { recursive: true });

const skipped = total.skipped > 0 ? `, ${total.skipped} skipped` : '';
console.log(`\n${total.passed} passed, ${total.failed} failed${skipped}`);
process.exitCode = total.failed > 0 ? 1 : 0;
