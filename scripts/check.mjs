// The static part of the checks, cheapest first. Stops at the first failure and shows its output; --all goes on.
// --quick compiles kernels for the GPUs with budgets alone, which takes half the time.
// A step that prints `skipped: <reason>` and succeeds counts as skipped. HADAL_CHECK_REPORT names a file for the counts.
import { spawnSync } from 'node:child_process';
import { readdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));

function nativeSources() {
  return readdirSync(path.join(root, 'native'), { recursive: true, encoding: 'utf8' })
    .filter((name) => /\.(?:h|cpp|cu|cuh)$/.test(name))
    .map((name) => path.join('native', name));
}

const script = (name) => [process.execPath, path.join('scripts', name)];
const tool = (name, ...args) => [path.join('node_modules', '.bin', name), ...args];

const quick = process.argv.includes('--quick') ? ['--quick'] : [];

const steps = [
  { name: 'sources: length and marks', command: script('check-sources.mjs') },
  { name: 'biome: format and lint', command: tool('biome', 'check', '--error-on-warnings', '.') },
  {
    name: 'clang-format',
    command: ['clang-format', '--dry-run', '--Werror', ...nativeSources()],
    needs: 'clang-format',
  },
  { name: 'instruction sets stay apart', command: script('check-isa-symbols.mjs') },
  { name: 'dependency-cruiser: import arrows', command: tool('depcruise', 'src') },
  { name: 'types: scripts', command: tool('tsc', '-p', 'tsconfig.scripts.json') },
  { name: 'types: sources, tests, benches', command: tool('tsc', '-p', 'tsconfig.json') },
  { name: 'typedoc: pages of the API', command: tool('typedoc', '--emit', 'none') },
  { name: 'knip: what nobody uses', command: tool('knip', '--no-progress', '--no-config-hints') },
  { name: 'publint: the package', command: tool('publint', '--strict') },
  { name: 'prebuilt binaries: what they need', command: script('check-prebuild.mjs') },
  {
    name: 'arm64 compiles',
    command: [...script('build-native.mjs'), '--compiles', 'arm64'],
    needs: 'aarch64-linux-gnu-g++',
  },
  { name: 'CUDA: kernels compile and keep their budgets', command: [...script('check-cuda.mjs'), ...quick] },
  { name: 'attw: types of the package', command: tool('attw', '--pack', '.', '--profile', 'esm-only') },
];

const counts = { passed: 0, failed: 0, skipped: 0 };
for (const { name, command, needs } of steps) {
  const [file = '', ...args] = command;
  const start = performance.now();
  let result = 'passed';
  let output = '';
  if (needs !== undefined && spawnSync(needs, ['--version']).error) {
    result = 'skipped';
    output = `${needs} is not installed`;
  } else {
    const { status, stdout, stderr, error } = spawnSync(file, args, {
      cwd: root,
      encoding: 'utf8',
      maxBuffer: 1 << 28,
    });
    const skip = /^skipped: (.*)$/m.exec(stdout ?? '');
    output = `${stdout ?? ''}${stderr ?? ''}${error?.message ?? ''}`;
    if (status !== 0) result = 'failed';
    else if (skip) [result, output] = ['skipped', skip[1] ?? ''];
  }
  counts[result] += 1;
  const seconds = ((performance.now() - start) / 1000).toFixed(1);
  console.log(`${result.padEnd(7)} ${seconds.padStart(6)} s  ${name}${result === 'skipped' ? ` (${output})` : ''}`);
  if (result === 'failed') {
    console.log(output);
    if (!process.argv.includes('--all')) break;
  }
}
console.log(`check: ${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`);
if (process.env.HADAL_CHECK_REPORT) writeFileSync(process.env.HADAL_CHECK_REPORT, JSON.stringify(counts));
process.exitCode = counts.failed > 0 ? 1 : 0;
