// Runs the tests of native code under AddressSanitizer and UndefinedBehaviorSanitizer, with a build of its own in
// build-asan/. Arguments are passed to vitest; without any, all tests of ops and of the native binary run.
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, realpathSync } from 'node:fs';
import path from 'node:path';
import { buildNative, root, sanitized } from './build-native.mjs';

/** A runtime library of the compiler. Node is not linked against the sanitizers, so they must be loaded before it. */
function runtimeLibrary(name) {
  const file = execFileSync(process.env.CXX ?? 'c++', [`-print-file-name=${name}`], { encoding: 'utf8' }).trim();
  return path.isAbsolute(file) ? realpathSync(file) : undefined;
}

const addon = buildNative(sanitized);
// libstdc++ comes along because the sanitizer looks up __cxa_throw at its start; without, the first exception aborts.
const libraries = ['libasan.so', 'libubsan.so', 'libstdc++.so.6'].map(runtimeLibrary);
if (libraries.includes(undefined)) {
  console.error('sanitize: expected libasan, libubsan and libstdc++ beside the compiler; use g++');
  process.exit(1);
}
const chosen = process.argv.slice(2);
const folders = ['test/ops', 'test/native'].filter((folder) => existsSync(path.join(root, folder)));
const vitest = path.join(root, 'node_modules', 'vitest', 'vitest.mjs');
// Checked code takes ten times as long.
const vitestArgs = ['run', '--testTimeout=600000', ...(chosen.length > 0 ? chosen : folders)];
const { status, signal } = spawnSync(process.execPath, [vitest, ...vitestArgs], {
  cwd: root,
  stdio: 'inherit',
  env: {
    ...process.env,
    LD_PRELOAD: libraries.join(':'),
    // Node itself leaks on purpose at its end.
    ASAN_OPTIONS: 'detect_leaks=0:abort_on_error=1',
    UBSAN_OPTIONS: 'print_stacktrace=1:halt_on_error=1',
    HADAL_NATIVE: addon,
    // Sanitizers watch the simulated GPU's kernels in builds of their own: native/sim/tests, accept cuda-sim.
    HADAL_TEST_DEVICE: 'cpu',
  },
});
if (signal) console.error(`sanitize: vitest ended with ${signal}`);
process.exit(status ?? 1);
