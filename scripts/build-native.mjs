// Builds the native binary with cmake-js: build/Release/hadal.node; build-asan/Release/hadal.node with --sanitize;
// build-prebuild/linux-arm64/build/Release/hadal.node with --arch arm64, by a cross compiler (--compiles arm64: only
// whether it does). Only what changed is
// compiled. Used by setup.mjs, sanitize.mjs, prebuild.mjs and `npm run build:native`, which an installed package has too.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
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
export const hasOneDnn = () => hasHeader('dnnl.h');

/** Whether Gloo can be compiled against. */
export const hasGloo = () => process.platform === 'linux' && hasHeader(path.join('gloo', 'transport', 'tcp', 'pair.h'));

function hasHeader(name) {
  const prefixes = [
    '/usr',
    '/usr/local',
    '/opt/homebrew',
    ...(process.env.CMAKE_PREFIX_PATH ?? '').split(path.delimiter),
  ];
  return prefixes.some((prefix) => prefix !== '' && existsSync(path.join(prefix, 'include', name)));
}

/** What the binary depends on, as one string: it is built anew when this changes. */
function nativeState() {
  const build =
    hashOf('native') +
    createHash('sha256')
      .update(readFileSync(path.join(root, 'CMakeLists.txt')))
      .digest('hex');
  return `${build} ${process.platform} ${process.arch} onednn=${hasOneDnn()} gloo=${hasGloo()}`;
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

/** How GNU tools are called that make binaries for another processor: by Node's name of it. */
const crossTools = {
  arm64: { processor: 'aarch64', prefix: 'aarch64-linux-gnu-', package: 'g++-aarch64-linux-gnu' },
};

/** Compiler and strip for a processor, with what cmake must know of them; throws when the compiler is not there. */
export function toolsFor(arch) {
  if (arch === process.arch) return { cxx: process.env.CXX ?? 'c++', strip: 'strip', defines: {} };
  const cross = crossTools[arch];
  if (process.platform !== 'linux' || cross === undefined) {
    const known = [process.arch, ...Object.keys(crossTools)].join(', ');
    throw new Error(
      `expected one of the processors ${known}, of which others than this one's only on Linux, got ${arch}`,
    );
  }
  const cxx = `${cross.prefix}g++`;
  if (spawnSync(cxx, ['--version']).error) {
    throw new Error(`${cxx} is not installed; run: sudo apt-get install ${cross.package}`);
  }
  const defines = { CMAKE_SYSTEM_NAME: 'Linux', CMAKE_SYSTEM_PROCESSOR: cross.processor, CMAKE_CXX_COMPILER: cxx };
  return { cxx, strip: `${cross.prefix}strip`, defines };
}

/** Builds below the folder `out`; throws with what to do when the build fails. */
export function buildNative({ out = 'build', defines = {} } = {}) {
  const folder = path.join(root, out);
  const state = nativeState();
  const definitions = Object.entries(defines).map(([name, value]) => `--CD${name}=${value}`);
  const options = ['--out', folder, '--log-level', 'warn', ...definitions];
  if (!cmakeJs('configure', options)) {
    // A cache of a checkout that has been moved, or of another compiler, cannot be configured again.
    rmSync(path.join(folder, 'CMakeCache.txt'), { force: true });
    if (!cmakeJs('configure', options))
      throw new Error('cmake could not configure the native build (its output is above)');
  }
  if (!cmakeJs('build', [...options, '--parallel', String(os.availableParallelism())])) {
    throw new Error('the native build failed (the compiler’s output is above)');
  }
  mkdirSync(folder, { recursive: true });
  writeFileSync(path.join(folder, 'stamp'), state);
  return path.join(folder, 'Release', 'hadal.node');
}

/** The sanitizers' build, in a folder of its own. */
export const sanitized = { out: 'build-asan', defines: { HADAL_SANITIZE: 'ON' } };

/** Sees whether it compiles for a processor; the binary is good for nothing else. */
function compileFor(arch) {
  const out = path.join('build-prebuild', `linux-${arch}-compiles`);
  return buildNative({ out, defines: { ...toolsFor(arch).defines, HADAL_COMPILES: 'ON' } });
}

/** Builds for a processor, another one's in a folder of its own. */
export function buildFor(arch) {
  const out = arch === process.arch ? 'build' : path.join('build-prebuild', `linux-${arch}`, 'build');
  return buildNative({ out, defines: toolsFor(arch).defines });
}

function cmakeJs(command, options) {
  const args = [findCmakeJs(), command, ...options];
  // Everything goes to stderr: stdout belongs to the command that set-up runs for.
  return spawnSync(process.execPath, args, { cwd: root, stdio: ['ignore', 2, 2] }).status === 0;
}

/** Where cmake-js is. An installed package comes without it: few need it, and it is larger than hadal's own code. */
function findCmakeJs() {
  const require = createRequire(path.join(root, 'package.json'));
  try {
    require.resolve('node-addon-api');
    return require.resolve('cmake-js/bin/cmake-js');
  } catch {
    const where = root.includes(`${path.sep}node_modules${path.sep}`) ? ' in your project' : '';
    throw new Error(
      `cmake-js or node-addon-api is missing; run${where}: npm install --no-save cmake-js@8 node-addon-api@8`,
    );
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [option, value] = process.argv.slice(2);
  try {
    if (option === '--arch') buildFor(value);
    else if (option === '--compiles') compileFor(value);
    else buildNative(option === '--sanitize' ? sanitized : {});
  } catch (error) {
    console.error(`build-native: ${error.message}`);
    process.exit(1);
  }
}
