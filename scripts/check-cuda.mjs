// Compiles the CUDA sources for the GPUs that are supported, with every warning an error. Nothing runs: that takes a GPU.
// Prints `skipped: …` where nvcc is not installed.
import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
/** A100; H100 and H200; B200 and its family. The last needs CUDA 12.9. */
const architectures = ['80', '90', '100f'];

const sources = readdirSync(path.join(root, 'native/cuda')).filter((name) => name.endsWith('.cu'));
const nvcc = ['nvcc', '/usr/local/cuda/bin/nvcc'].find((file) => !spawnSync(file, ['--version']).error);
if (nvcc === undefined) console.log('skipped: nvcc is not installed');
else {
  const folder = mkdtempSync(path.join(tmpdir(), 'hadal-cuda-'));
  const codes = architectures.flatMap((one) => ['-gencode', `arch=compute_${one},code=sm_${one}`]);
  const flags = ['-std=c++20', '-O3', '--Werror', 'all-warnings', '-Xcompiler', '-Wall,-Wextra', '-Inative', ...codes];
  /** @param {string} source @returns {Promise<boolean>} */
  const compile = (source) =>
    new Promise((resolve) => {
      const files = ['-c', path.join('native/cuda', source), '-o', path.join(folder, `${source}.o`)];
      const child = spawn(nvcc, [...flags, ...files], { cwd: root, stdio: 'inherit' });
      child.on('close', (status) => resolve(status === 0));
    });
  const waiting = [...sources];
  let failures = 0;
  const work = async () => {
    for (let source = waiting.pop(); source !== undefined; source = waiting.pop()) {
      if (await compile(source)) continue;
      console.error(`${source} does not compile`);
      failures += 1;
    }
  };
  await Promise.all(Array.from({ length: availableParallelism() }, work));
  rmSync(folder, { recursive: true });
  console.log(`${sources.length - failures} of ${sources.length} CUDA sources compile`);
  if (failures > 0) process.exitCode = 1;
}
