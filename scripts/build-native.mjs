// Builds the native binary with cmake-js: build/Release/hadal.node, or build-asan/Release/hadal.node with --sanitize.
// Only what changed is compiled. Used by setup.mjs, sanitize.mjs and `npm run build:native`.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));

/** Hash of the contents and names of all files below the given paths. */
export function hashOf(...paths) {
  const hash = createHash('sha256');
  for (const file of paths.flatMap((name) => filesBelow(path.join(root, name))).sort()) {
    hash.update(`${path.relative(root, file)}\0`).update(readFileSync(file));
  }
  return hash.digest('hex');
}

function filesBelow(place) {
  if (!existsSync(place)) return [];
  const entries = readdirSync(place, { withFileTypes: true, recursive: true, encoding: 'utf8' });
  return entries.filter((entry) => entry.isFile()).map((entry) => path.join(entry.parentPath, entry.name));
}

/** Whether oneDNN can be compiled against. */
export function hasOneDnn() {
  const prefixes = [
    '/usr',
    '/usr/local',
    '/opt/homebrew',
    ...(process.env.CMAKE_PREFIX_PATH ?? '').split(path.delimiter),
  ];
  return prefixes.some((prefix) => prefix !== '' && existsSync(path.join(prefix, 'include', 'dnnl.h')));
}

/** What the binary depends on, as one string: it is built anew when this changes. */
function nativeState() {
  const build =
    hashOf('native') +
    createHash('sha256')
      .update(readFileSync(path.join(root, 'CMakeLists.txt')))
      .digest('hex');
  return `${build} ${process.platform} ${process.arch} onednn=${hasOneDnn()}`;
}

/** Whether build/ holds a binary of the present sources. */
export function isNativeCurrent() {
  const stamp = path.join(root, 'build', 'stamp');
  return (
    existsSync(path.join(root, 'build', 'Release', 'hadal.node')) &&
    existsSync(stamp) &&
    readFileSync(stamp, 'utf8') === nativeState()
  );
}

/** Builds; throws with what to do when the build fails. */
export function buildNative({ sanitize = false } = {}) {
  const out = path.join(root, sanitize ? 'build-asan' : 'build');
  const state = nativeState();
  const options = ['--out', out, '--log-level', 'warn', ...(sanitize ? ['--CDHADAL_SANITIZE=ON'] : [])];
  if (!cmakeJs('configure', options)) {
    // A cache of a checkout that has been moved, or of another compiler, cannot be configured again.
    rmSync(path.join(out, 'CMakeCache.txt'), { force: true });
    if (!cmakeJs('configure', options))
      throw new Error('cmake could not configure the native build (its output is above)');
  }
  if (!cmakeJs('build', [...options, '--parallel', String(os.availableParallelism())])) {
    throw new Error('the native build failed (the compiler’s output is above)');
  }
  mkdirSync(out, { recursive: true });
  writeFileSync(path.join(out, 'stamp'), state);
  return path.join(out, 'Release', 'hadal.node');
}

function cmakeJs(command, options) {
  const main = path.join(root, 'node_modules', 'cmake-js', 'bin', 'cmake-js');
  // Everything goes to stderr: stdout belongs to the command that set-up runs for.
  return spawnSync(process.execPath, [main, command, ...options], { cwd: root, stdio: ['ignore', 2, 2] }).status === 0;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    buildNative({ sanitize: process.argv.includes('--sanitize') });
  } catch (error) {
    console.error(`build-native: ${error.message}`);
    process.exit(1);
  }
}
