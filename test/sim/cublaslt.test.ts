// cuBLASLt as it is found and told of: the stand-in, none, and the library itself, whose descriptors need no GPU. With
// HADAL_TEST_CUBLASLT=<libcublasLt.so.13> the real library checks the descriptors that products are asked for with.
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { loadAddon } from '../../src/addon/addon.js';

const addon = fileURLToPath(new URL('../../build/Release/hadal.node', import.meta.url));
const standIn = fileURLToPath(new URL('../../build/Release/hadal-cublaslt-sim.so', import.meta.url));
const { isBuilt } = loadAddon().backend('cuda-sim');

/** What the simulated device tells of cuBLASLt, which a process opens once. */
async function status(library: string): Promise<string> {
  const script = `console.log(require(${JSON.stringify(addon)}).backend('cuda-sim').libraries.join('\\n'))`;
  const { stdout } = await promisify(execFile)(process.execPath, ['-e', script], {
    env: { ...process.env, HADAL_CUBLASLT: library },
  });
  return stdout.split('\n').find((line) => line.includes('cuBLASLt')) ?? '';
}

describe.skipIf(!isBuilt)('cuBLASLt', () => {
  it('is the stand-in on the simulated device', async () => {
    expect(await status('')).toBe(`cuBLASLt 13.0.0 (${standIn})`);
    expect(await status(standIn)).toBe(`cuBLASLt 13.0.0 (${standIn})`);
  });

  it('is none where that is wanted, or where it cannot be opened, which is told', async () => {
    expect(await status('none')).toBe('no cuBLASLt: HADAL_CUBLASLT is none');
    expect(await status('/nowhere.so')).toMatch(/^no cuBLASLt: HADAL_CUBLASLT: \/nowhere\.so: cannot open/);
    expect(await status('libm.so.6')).toMatch(/^no cuBLASLt: HADAL_CUBLASLT: libm\.so\.6 lacks cublasLt/);
  });

  const real = process.env.HADAL_TEST_CUBLASLT ?? '';
  it.skipIf(!real)(`takes the descriptors of products${real ? '' : ' (HADAL_TEST_CUBLASLT is not set)'}`, async () => {
    expect(await status(real)).toMatch(/^cuBLASLt 1\d\.\d+\.\d+ \(.*\), whose products need a GPU$/);
  });
});
