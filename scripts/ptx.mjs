// Emits the PTX of native/cuda/*.cu into build/ptx/, for the interpreter in native/ptx/: `node scripts/ptx.mjs [name …]`
// (default: all). What has not changed is left. Prints counts, or `skipped: …` where nvcc is not installed.
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const flags = ['-std=c++20', '-O3', '--expt-relaxed-constexpr', '-DHADAL_ISA=cuda', '-Inative', '-Inative/cuda/nvcc'];
const processes = 2;

export const nvcc = ['nvcc', '/usr/local/cuda/bin/nvcc'].find((file) => !spawnSync(file, ['--version']).error);

/** @param {string} folder @param {RegExp} pattern @returns {string[]} */
const filesOf = (folder, pattern) =>
  readdirSync(path.join(root, folder))
    .filter((name) => pattern.test(name))
    .sort()
    .map((name) => path.join(folder, name));

/**
 * A source and the headers of ours that it includes, directly or through others.
 * @param {string} file
 * @param {Set<string>} known
 */
function withIncludes(file, known = new Set()) {
  if (known.has(file)) return known;
  known.add(file);
  for (const [, name] of readFileSync(path.join(root, file), 'utf8').matchAll(/^#include "([^"]+)"/gm)) {
    const places = [path.dirname(file), 'native', 'native/cuda/nvcc'].map((folder) => path.join(folder, name ?? ''));
    const found = places.find((place) => existsSync(path.join(root, place)));
    if (found !== undefined) withIncludes(found, known);
  }
  return known;
}

/**
 * Numbers of enumerators, which launches name and mangled names of kernels do not.
 * @returns {string}
 */
function enumerators() {
  const lines = new Set();
  const folders = ['native/cuda', 'native/cuda/nvcc', 'native/ops', 'native/core'];
  for (const file of folders.flatMap((folder) => filesOf(folder, /\.(cu|cuh|h)$/))) {
    const text = readFileSync(path.join(root, file), 'utf8').replace(/\/\/.*$/gm, '');
    for (const [, name, body] of text.matchAll(/enum (?:class )?(\w+)(?: : \w+)? \{([^}]*)\}/g)) {
      let number = 0;
      for (const item of (body ?? '').split(',').map((one) => one.trim())) {
        const [, enumerator, value] = /^(\w+)(?: = (\d+))?$/.exec(item) ?? [];
        if (enumerator === undefined) continue;
        number = value === undefined ? number : Number(value);
        lines.add(`${name}::${enumerator} ${number}\n`);
        number += 1;
      }
    }
  }
  return [...lines].join('');
}

/**
 * Makes the PTX of the named sources (`rms-norm`), or of all, and says what was compiled and what did not compile.
 * @param {string[]} names
 * @param {string} [folder]
 */
export async function emitPtx(names = [], folder = path.join(root, 'build/ptx')) {
  if (nvcc === undefined) throw new Error('nvcc is not installed');
  mkdirSync(folder, { recursive: true });
  const version = spawnSync(nvcc, ['--version'], { encoding: 'utf8' }).stdout;
  /** @param {string} source */
  const hashOf = (source) => {
    const hash = createHash('sha256').update(version).update(flags.join(' '));
    for (const file of [...withIncludes(source)].sort()) hash.update(readFileSync(path.join(root, file)));
    return hash.digest('hex');
  };
  const known = filesOf('native/cuda', /\.cu$/);
  if (names.length === 0) {
    // Of a source that is no more.
    for (const file of readdirSync(folder))
      if (file.endsWith('.ptx') && !known.includes(`native/cuda/${file.replace(/ptx$/, 'cu')}`))
        rmSync(path.join(folder, file));
  }
  const sources = known.filter((file) => names.length === 0 || names.includes(path.basename(file, '.cu')));
  writeFileSync(path.join(folder, 'enumerators.txt'), enumerators());
  /** @type {string[]} */
  const compiled = [];
  /** @type {string[]} */
  const failed = [];
  const waiting = sources.filter((source) => {
    const to = path.join(folder, `${path.basename(source, '.cu')}.ptx`);
    const hash = hashOf(source);
    const stamp = `${to}.sha256`;
    if (existsSync(to) && existsSync(stamp) && readFileSync(stamp, 'utf8') === hash) return false;
    rmSync(stamp, { force: true });
    return true;
  });
  /** @param {string} source @returns {Promise<void>} */
  const compile = (source) =>
    new Promise((resolve) => {
      const to = path.join(folder, `${path.basename(source, '.cu')}.ptx`);
      const hash = hashOf(source);
      const child = spawn(/** @type {string} */ (nvcc), [...flags, '-arch=compute_80', '-ptx', source, '-o', to], {
        cwd: root,
        stdio: ['ignore', 'inherit', 'inherit'],
      });
      child.on('close', (status) => {
        if (status === 0) writeFileSync(`${to}.sha256`, hash);
        else rmSync(to, { force: true });
        (status === 0 ? compiled : failed).push(source);
        resolve();
      });
    });
  const work = async () => {
    for (let source = waiting.shift(); source !== undefined; source = waiting.shift()) await compile(source);
  };
  await Promise.all(Array.from({ length: processes }, work));
  let bytes = 0;
  let kernels = 0;
  for (const source of sources) {
    const file = path.join(folder, `${path.basename(source, '.cu')}.ptx`);
    if (!existsSync(file)) continue;
    const text = readFileSync(file, 'utf8');
    bytes += text.length;
    kernels += text.match(/^(?:\.visible |\.weak )?\.entry /gm)?.length ?? 0;
  }
  return { folder, sources: sources.length, compiled: compiled.length, failed, kernels, bytes };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  if (nvcc === undefined) console.log('skipped: nvcc is not installed');
  else {
    const made = await emitPtx(process.argv.slice(2));
    for (const source of made.failed) console.error(`${source} does not compile`);
    const size = (made.bytes / 2 ** 20).toFixed(1);
    console.log(
      `${made.sources} CUDA sources, ${made.compiled} compiled anew: ${made.kernels} kernels, ${size} MiB of PTX in ${path.relative(root, made.folder)}`,
    );
    if (made.failed.length > 0) process.exitCode = 1;
  }
}
