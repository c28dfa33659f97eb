import { describe, expect, it } from 'vitest';
import { runKernel } from '../../src/runtime/run-kernel.js';
import { testDevice } from '../support/op-case.js';

const flags = { transposeA: 0, transposeB: 0, addendIsRow: 0, extentDim: 0, extentUnit: 0 };
const dtypes = { dtypeA: 'fp32', dtypeB: 'fp32', dtypeC: 'fp32', dtypeAddend: 'fp32' } as const;
const params = { batch: 1, m: 2, n: 2, k: 3, ...flags, ...dtypes };
const a = Float32Array.of(1, 2, 3, 4, 5, 6);
const b = Float32Array.of(1, 0, 0, 1, 1, 1);

const refused = (action: Promise<unknown>, code: string, message: RegExp) =>
  expect(action).rejects.toMatchObject({ code, message: expect.stringMatching(message) });

describe('runKernel', () => {
  it('runs one kernel on arrays', async () => {
    const c = new Float32Array(4);
    expect(await runKernel(testDevice(), 'matmul', params, [a, b, null, null, c])).toBeGreaterThanOrEqual(0);
    expect([...c]).toEqual([4, 5, 10, 11]);
  });

  it('runs one kernel on tensors and on views of shared memory', async () => {
    const device = testDevice();
    using tensor = device.allocate([2, 2], 'fp32');
    const shared = new Float32Array(new SharedArrayBuffer(24));
    shared.set(a);
    await runKernel(device, 'matmul', params, [shared, b, null, null, tensor]);
    expect([...(await tensor.toFloat32())]).toEqual([4, 5, 10, 11]);
  });

  it('gives the kernel its workspace', async () => {
    const x = Float32Array.from({ length: 100_000 }, () => 1);
    const out = new Float32Array(1);
    const sum = { outer: 1, reduced: x.length, inner: 1, reduction: 0, extentUnit: 0, scale: 1 };
    await runKernel(testDevice(), 'reduce', { ...sum, dtype: 'fp32', outputType: 'fp32' }, [x, null, out]);
    expect(out[0]).toBe(100_000);
  });

  it('refuses what does not fit, in words', async () => {
    const device = testDevice();
    const c = new Float32Array(4);
    const run = (name: string, p: object, buffers: (Float32Array | null)[]) =>
      runKernel(device, name, p as typeof params, buffers);
    await refused(run('matmull', params, []), 'HADAL_ERR_NATIVE', /'matmull'; did you mean 'matmul'\?/);
    await refused(run('no such thing', params, []), 'HADAL_ERR_NATIVE', /there are .*rms-norm/);
    const { k: _, ...withoutK } = params;
    await refused(run('matmul', { ...withoutK, depth: 3 }, []), 'HADAL_ERR_NATIVE', /no 'k', an unknown 'depth'/);
    await refused(run('matmul', { ...params, k: -1 }, []), 'HADAL_ERR_NATIVE', /\[matmul\] expected sizes/);
    // 2^32 · 2^32 is 0 in 64 bits, and the divisor of a thread's share.
    const wide = { tokens: 0, topK: 2 ** 32, dim: 2 ** 32, dtype: 'fp32' };
    await refused(run('unpermute', wide, [null, null, null, null]), 'HADAL_ERR_NATIVE', /fit in 56 bits/);
    const vast = { groups: 1, rows: 1, columns: 1, tileRows: 2 ** 32, tileColumns: 2 ** 32, powerOfTwo: 0 };
    const tiles = { ...vast, dtypeX: 'fp32', dtypeY: 'fp32' };
    await refused(run('quantize-tiles', tiles, [c, null, c]), 'HADAL_ERR_NATIVE', /tiles of at most 2\^49 numbers/);
    await refused(run('matmul', params, [a, b, c]), 'HADAL_ERR_SHAPE', /5 buffers \(a, b, addend, extent, c\), got 3/);
    await refused(
      run('matmul', params, [a, b.subarray(1), null, null, c]),
      'HADAL_ERR_SHAPE',
      /'b' .*24 bytes, got 20/,
    );
    await refused(run('matmul', params, [a, b, null, null, null]), 'HADAL_ERR_SHAPE', /'c' .*16 bytes, got none/);
  });

  it("passes on a kernel's own refusal of data", async () => {
    const gather = { ids: 1, vocabulary: 3, dim: 2, dtypeTable: 'fp32', dtypeY: 'fp32' } as const;
    const table = new Float32Array(6);
    const call = runKernel(testDevice(), 'embedding', gather, [table, Int32Array.of(3), new Float32Array(2)]);
    await refused(call, 'HADAL_ERR_RUN', /\[embedding\].*3.*op 'embedding'/);
  });
});
