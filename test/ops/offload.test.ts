import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { prefetchCall, releaseCall } from '../../src/ops/offload.js';
import { BackingFile } from '../../src/runtime/backing-file.js';
import { runKernel } from '../../src/runtime/run-kernel.js';
import type { Tensor } from '../../src/runtime/tensor.js';
import { testDevice, testDeviceName } from '../support/op-case.js';
import { residentFileBytes } from '../support/resident.js';
import { Rng } from '../support/rng.js';
import { cases } from './offload.cases.js';

const directory = mkdtempSync(join(tmpdir(), 'hadal-offload-'));
afterAll(() => rmSync(directory, { recursive: true }));

const isLinux = process.platform === 'linux';
const places = isLinux ? ['memory', 'a file'] : ['memory'];

const call = ({ kernel, params }: ReturnType<typeof prefetchCall>, tensors: readonly Tensor[]) =>
  runKernel(testDevice(), kernel, params, tensors);

describe('offload', () => {
  for (const { name, sizes } of cases) {
    it.each(places)(`leaves what tensors in %s hold: ${name}`, async (place) => {
      using file = place === 'memory' ? null : new BackingFile(directory);
      const rng = new Rng(name);
      const tensors: Tensor[] = [];
      const contents: Float32Array[] = [];
      for (const size of sizes) {
        tensors.push(testDevice().allocate([size], 'fp32', { file }));
        contents.push(Float32Array.from({ length: size }, () => rng.normal()));
        await tensors.at(-1)?.write(contents.at(-1) as Float32Array);
      }
      const bytes = tensors.map((tensor) => tensor.bytes);
      const steps = [prefetchCall(bytes, true), releaseCall(bytes), prefetchCall(bytes, false), releaseCall(bytes)];
      for (const step of steps) {
        await call(step, tensors);
        for (const [i, tensor] of tensors.entries()) {
          const held = Buffer.from((await tensor.toFloat32()).buffer);
          expect(held.equals(Buffer.from((contents[i] as Float32Array).buffer))).toBe(true);
        }
      }
      for (const tensor of tensors) tensor.dispose();
    });
  }

  // A GPU keeps what is offloaded in pinned memory.
  it.runIf(isLinux && testDeviceName === 'cpu').each([true, false])(
    'has a tensor in memory between prefetch and release, written: %s',
    async (writes) => {
      using file = new BackingFile(directory);
      const size = 8 * 2 ** 20;
      using tensor = testDevice().allocate([size], 'fp32', { file });
      await tensor.write(new Float32Array(size).fill(1));
      const released = residentFileBytes();
      await call(prefetchCall([tensor.bytes], writes), [tensor]);
      const fetched = residentFileBytes();
      await call(releaseCall([tensor.bytes]), [tensor]);
      expect((fetched - released) / tensor.bytes).toBeCloseTo(1, 1);
      expect((fetched - residentFileBytes()) / tensor.bytes).toBeCloseTo(1, 1);
    },
  );

  it('refuses no tensors, too many, and sizes below 0', async () => {
    for (const made of [prefetchCall([], true), releaseCall([])]) {
      await expect(call(made, [])).rejects.toMatchObject({
        code: 'HADAL_ERR_NATIVE',
        message: expect.stringMatching(/expected 1..64 tensors/),
      });
      const many = { ...made, params: { ...made.params, tensors: 65 } };
      await expect(call(many, [])).rejects.toMatchObject({ message: expect.stringMatching(/expected 1..64 tensors/) });
    }
    await expect(call(releaseCall([-1]), [])).rejects.toMatchObject({
      message: expect.stringMatching(/expected bytes >= 0/),
    });
  });
});
