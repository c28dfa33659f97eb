// The CUDA toolkit of this machine, and what the CUDA sources are compiled for and with.
import { spawnSync } from 'node:child_process';
import { existsSync, realpathSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = path.dirname(path.dirname(path.dirname(fileURLToPath(import.meta.url))));

/**
 * GPUs that machine code is made for: A100; RTX 30, A10; RTX 40, L4, L40S; H100, H200; B200; RTX 50. All of it from the PTX of
 * compute_80, which has every instruction that the sources use, so that the front end runs once and what the PTX check reads
 * is what all of them run; sm_100 and sm_120 need their own PTX (compute_100f) for tcgen05 alone, which is not used. Later
 * GPUs compile the PTX when they load it.
 */
export const architectures = ['sm_80', 'sm_86', 'sm_89', 'sm_90', 'sm_100', 'sm_120'];
/** Those whose kernels have budgets: the two that training is for. @type {readonly ['sm_80', 'sm_90']} */
export const budgeted = ['sm_80', 'sm_90'];

/** Flags of nvcc that make an object for GPUs. @param {readonly string[]} codes */
export const nvccFlags = (codes) => [
  ...['-std=c++20', '-O3', '--expt-relaxed-constexpr', '--Werror', 'all-warnings'],
  ...['-Xcompiler', '-Wall,-Wextra,-fPIC,-fvisibility=hidden', '-DHADAL_ISA=cuda', '-Inative', '-Inative/cuda/nvcc'],
  ...['-gencode', `arch=compute_80,code=[${[...codes, 'compute_80'].join(',')}]`, '-Xptxas', '-v'],
  '--compress-mode=size',
];

/**
 * @typedef {object} Toolkit
 * @property {string} nvcc
 * @property {string} ptxas
 * @property {string} include
 * @property {string} library
 * @property {string} version as nvcc says it
 */

/** @returns {Toolkit | null} null where nvcc is not installed */
export function findToolkit() {
  const named = (process.env.PATH ?? '').split(path.delimiter).map((folder) => path.join(folder, 'nvcc'));
  const nvcc = [...named, '/usr/local/cuda/bin/nvcc'].find((file) => existsSync(file));
  if (nvcc === undefined) return null;
  const { status, stdout } = spawnSync(nvcc, ['--version'], { encoding: 'utf8' });
  // nvcc in PATH may be a link or a wrapper: where its toolkit lies is asked of nvcc.
  const dryRun = spawnSync(nvcc, ['--dryrun', '-c', 'x.cu'], { encoding: 'utf8' });
  const top = /^#\$ TOP=(.*)$/m.exec(dryRun.stderr)?.[1];
  if (status !== 0 || top === undefined) return null;
  const home = realpathSync(top);
  const target = path.join(home, 'targets', process.arch === 'arm64' ? 'sbsa-linux' : 'x86_64-linux');
  const folder = (name) => path.join(existsSync(target) ? target : home, name);
  const ptxas = path.join(home, 'bin', 'ptxas');
  return { nvcc, ptxas, include: folder('include'), library: folder('lib'), version: stdout.trim() };
}
