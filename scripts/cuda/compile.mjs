// Compiles native/cuda/*.cu for every GPU and keeps what came of it by content: build/cuda/<name>-<hash>/ has the object, the PTX
// and what the gates ask of the machine code. A file is compiled again when it, a header that it includes, the flags or nvcc
// have changed.
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { availableParallelism, freemem } from 'node:os';
import path from 'node:path';
import { kernelsOf } from './cubin.mjs';
import { kernelNames } from './names.mjs';
import { countsInLoops, countsOf } from './opcodes.mjs';
import { architectures, budgeted, nvccFlags, root } from './toolkit.mjs';

/** Changes when what is kept of a compilation has another form. */
const form = 2;

/**
 * @typedef {object} MachineKernel what the gates know of a kernel on a GPU
 * @property {string} name
 * @property {number} threads most of a block
 * @property {number} registers
 * @property {number} staticShared
 * @property {number} stack
 * @property {number} spills bytes that are stored and loaded because registers did not suffice
 * @property {Record<string, number>} [counts] instructions, where the GPU is one with budgets
 * @property {number[]} [hmmaOfLoops] HMMA of each inner loop that has any
 */

/**
 * @typedef {object} Compiled
 * @property {string} source path below the root
 * @property {string} object
 * @property {string} ptx
 * @property {Record<string, MachineKernel[]>} kernels by GPU
 */

/** The CUDA sources, by path below the root. */
export const cudaSources = () =>
  readdirSync(path.join(root, 'native/cuda'))
    .filter((name) => name.endsWith('.cu'))
    .map((name) => path.join('native/cuda', name));

/**
 * Compiles what has changed, as many at a time as there are processors and memory for: nvcc takes up to a gigabyte.
 *
 * @param {import('./toolkit.mjs').Toolkit} toolkit @param {readonly string[]} sources paths below the root
 * @param {{ codes?: readonly string[], out?: string }} [options] `out`: where results are kept
 * @returns {Promise<{ compiled: Compiled[], failures: string[] }>} `failures`: what nvcc said
 */
export async function compileAll(toolkit, sources, { codes = architectures, out = 'build/cuda' } = {}) {
  const bySize = [...sources].sort((a, b) => statSync(path.join(root, b)).size - statSync(path.join(root, a)).size);
  const waiting = [...bySize];
  /** @type {Compiled[]} */
  const compiled = [];
  /** @type {string[]} */
  const failures = [];
  const work = async () => {
    for (let source = waiting.shift(); source !== undefined; source = waiting.shift()) {
      try {
        compiled.push(await compileOne(toolkit, source, codes, out));
      } catch (error) {
        failures.push(error.message);
      }
    }
  };
  const atOnce = Math.min(availableParallelism(), Math.max(1, Math.floor(freemem() / 2 ** 30)), sources.length);
  await Promise.all(Array.from({ length: atOnce }, work));
  return { compiled: compiled.sort((a, b) => (a.source < b.source ? -1 : 1)), failures };
}

/** @returns {Promise<Compiled>} */
async function compileOne(toolkit, source, codes, out) {
  const name = path.basename(source, '.cu');
  const folderOf = (some) => path.join(root, out, `${name}-${stateOf(toolkit, source, nvccFlags(some))}`);
  const whole = folderOf(architectures);
  const isKnown = codes.every((code) => architectures.includes(code)) && existsSync(path.join(whole, 'kernels.json'));
  const folder = isKnown ? whole : folderOf(codes);
  const results = {
    source,
    object: path.join(folder, `${name}.o`),
    ptx: path.join(folder, `${name}.ptx`),
  };
  const digest = path.join(folder, 'kernels.json');
  if (!existsSync(digest)) {
    const work = `${folder}.${process.pid}`;
    mkdirSync(work, { recursive: true });
    try {
      const files = ['--keep', '--keep-dir', work, '-c', source, '-o', path.join(work, `${name}.o`)];
      const log = await run(toolkit.nvcc, [...nvccFlags(codes), ...files], source);
      const kernels = JSON.stringify(machineKernels(work, name, codes, log));
      for (const file of readdirSync(work))
        if (![`${name}.o`, `${name}.ptx`].includes(file)) rmSync(path.join(work, file));
      writeFileSync(path.join(work, 'kernels.json'), kernels);
      removeEarlier(path.dirname(folder), name);
      renameSync(work, folder);
    } catch (error) {
      rmSync(work, { recursive: true, force: true });
      throw error;
    }
  }
  return { ...results, kernels: JSON.parse(readFileSync(digest, 'utf8')) };
}

function removeEarlier(folder, name) {
  for (const other of readdirSync(folder))
    if (new RegExp(`^${name}-[0-9a-f]{16}$`).test(other)) rmSync(path.join(folder, other), { recursive: true });
}

function run(file, args, source) {
  return new Promise((resolve, reject) => {
    const child = spawn(file, args, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    for (const stream of [child.stdout, child.stderr])
      stream.setEncoding('utf8').on('data', (text) => {
        output += text;
      });
    child.on('error', reject);
    child.on('close', (status) => {
      const said = output.replace(/^(?:ptxas info .*| {4}\d+ bytes stack frame.*)\n/gm, '');
      if (status === 0) resolve(output);
      else reject(new Error(`${source} does not compile:\n${said}`));
    });
  });
}

/** What the machine code and the assembler's log say of every kernel, by GPU. */
function machineKernels(folder, name, codes, log) {
  const logged = kernelsOfLog(log);
  return Object.fromEntries(
    codes.map((code) => {
      const kernels = kernelsOf(readFileSync(path.join(folder, `${name}.${code}.cubin`)));
      const names = kernels.length > 0 ? kernelNames(kernels.map(({ symbol }) => symbol)) : [];
      const described = kernels.map(({ symbol, threads, registers, stack, code: instructions }, i) => {
        const said = logged.get(`${code} ${symbol}`);
        if (!said || said.registers !== registers)
          throw new Error(
            `[cuda] ptxas says ${said?.registers} registers of ${names[i]} on ${code}, its code ${registers}`,
          );
        const { staticShared, spills } = said;
        const known = { name: names[i], threads, registers, staticShared, stack: Math.max(stack, said.stack), spills };
        if (!budgeted.includes(code)) return known;
        const hmmaOfLoops = countsInLoops(instructions, code, 'HMMA');
        return { ...known, counts: countsOf(instructions), hmmaOfLoops };
      });
      return [code, described.sort((a, b) => (String(a.name) < String(b.name) ? -1 : 1))];
    }),
  );
}

/**
 * What `ptxas -v` says.
 *
 * @param {string} log
 * @returns {Map<string, { registers: number, staticShared: number, stack: number, spills: number }>} by `sm_80 <symbol>`
 */
export function kernelsOfLog(log) {
  const found = new Map();
  for (const part of log.split(/(?=ptxas info\s*: Compiling entry function )/)) {
    const [, symbol, code] = /Compiling entry function '(\S+)' for '(sm_\w+)'/.exec(part) ?? [];
    if (symbol === undefined) continue;
    const number = (pattern) => Number(pattern.exec(part)?.[1] ?? 0);
    found.set(`${code} ${symbol}`, {
      registers: number(/Used (\d+) registers/),
      staticShared: number(/(\d+) bytes smem/),
      stack: number(/(\d+) bytes stack frame/),
      spills: number(/(\d+) bytes spill stores/) + number(/(\d+) bytes spill loads/),
    });
  }
  return found;
}

/** Hash of all that a compilation depends on. */
function stateOf(toolkit, source, flags) {
  const hash = createHash('sha256').update(JSON.stringify([form, toolkit.version, flags]));
  for (const file of withIncludes(path.join(root, source)))
    hash.update(`${path.relative(root, file)}\0`).update(readFileSync(file));
  return hash.digest('hex').slice(0, 16);
}

/** What a compilation says of a GPU. @param {Compiled} compiled @param {string} code */
export const kernelsOn = ({ kernels }, code) => kernels[code] ?? [];

/** The file and every file of this project that it includes, however far. */
function withIncludes(source) {
  const folders = ['native', 'native/cuda/nvcc'].map((folder) => path.join(root, folder));
  const found = new Set([source]);
  for (const file of found)
    for (const [, name = ''] of readFileSync(file, 'utf8').matchAll(/^\s*#\s*include\s+"([^"]+)"/gm)) {
      const header = [path.dirname(file), ...folders].map((folder) => path.join(folder, name)).find(existsSync);
      if (header !== undefined) found.add(header);
    }
  return [...found].sort();
}
