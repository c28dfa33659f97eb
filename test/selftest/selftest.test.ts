// The test of a device before its first use: what is right passes, what is wrong is found, named and replaced.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { loadAddon } from '../../src/addon/addon.js';
import { type Device, openDevice } from '../../src/runtime/device.js';
import { selfTest, untested } from '../../src/selftest/selftest.js';
import { trustDevice } from '../../src/selftest/trust.js';

const folder = mkdtempSync(join(tmpdir(), 'hadal-trust-'));
afterAll(() => rmSync(folder, { recursive: true }));
afterEach(() => {
  delete process.env.HADAL_CUDA_SELFTEST;
});

const isSimulated = loadAddon().backend('cuda-sim').isBuilt;

/** A device that gives a wrong first number wherever one of the kernels runs. */
function wrongIn(name: string, ...kernels: string[]): Device {
  const device = openDevice(name, { threads: 1 });
  const run = device.run.bind(device);
  device.run = async (schedule, options) => {
    const times = await run(schedule, options);
    for (const { program, slots } of schedule) {
      if (!program.instructions.some(({ kernel }) => kernels.includes(kernel))) continue;
      for (const { name } of program.outputs) await slots[name]?.write(Uint8Array.of(0xff, 0xff, 0xff, 0xff), 0); // NaN
    }
    return times;
  };
  return device;
}

/** What a computation of one process has no use for, or that is a gradient of a gradient. */
const elsewhere = [
  'all-gather',
  'all-reduce',
  'all-to-all',
  'broadcast-from',
  'permute-dot',
  'prefetch',
  'reduce-scatter',
  'release',
];

describe('the self-test', () => {
  it('finds nothing on the processor, and runs every kernel', async () => {
    using device = openDevice('cpu', { threads: 2 });
    const report = await selfTest(device);
    expect(report.results.filter(({ failure }) => failure !== null)).toEqual([]);
    expect(report.suspects).toEqual([]);
    expect(untested(report).sort()).toEqual(elsewhere);
  });

  it.skipIf(!isSimulated)('finds nothing on the simulated GPU', async () => {
    using device = openDevice('cuda-sim');
    const { results } = await selfTest(device);
    expect(results.filter(({ failure }) => failure !== null)).toEqual([]);
  });

  it('names the kernel at fault', async () => {
    using device = wrongIn('cpu', 'swiglu');
    const { results, suspects } = await selfTest(device);
    const failed = results.filter(({ failure }) => failure !== null);
    expect(new Set(failed.map(({ name }) => name))).toEqual(new Set(['SwiGLU']));
    expect(failed[0]?.failure).toMatch(/number 0: expected -?[\d.]+, got (?:NaN|-?\d+)/);
    expect(suspects).toEqual(['swiglu', 'swiglu-backward']);
  });

  it.skipIf(!isSimulated)('has a wrong kernel replaced by what it stands for, and remembers it', async () => {
    process.env.HADAL_CUDA_SELFTEST = '1';
    const cache = join(folder, 'known', 'known.json');
    using device = wrongIn('cuda-sim', 'swiglu', 'swiglu-backward');
    expect(await trustDevice(device, cache)).toEqual([expect.stringContaining('swiglu, swiglu-backward')]);
    expect(device.target.without).toEqual(['swiglu', 'swiglu-backward']);
    expect(Object.values(JSON.parse(readFileSync(cache, 'utf8')))).toEqual([['swiglu', 'swiglu-backward']]);
  });

  it.skipIf(!isSimulated)('refuses a device where nothing can take the place of what is wrong', async () => {
    process.env.HADAL_CUDA_SELFTEST = '1';
    using device = wrongIn('cuda-sim', 'matmul');
    const refusal = {
      code: 'HADAL_ERR_DEVICE',
      message: expect.stringMatching(/got a wrong 'matmul' in fp32: .*or take device cpu/),
    };
    await expect(trustDevice(device, join(folder, 'none.json'))).rejects.toMatchObject(refusal);
  });

  it('can be ended by an error of the device, and go on behind it with another one', async () => {
    const begun: [number, string][] = [];
    const onBegin = (at: number, name: string) => begun.push([at, name]);
    using broken = openDevice('cpu', { threads: 1 });
    const run = broken.run.bind(broken);
    broken.run = (schedule, options) => {
      const isSwiglu = schedule.some(({ program }) => program.instructions.some(({ kernel }) => kernel === 'swiglu'));
      return isSwiglu ? Promise.reject(new Error('[cuda] cannot run a step')) : run(schedule, options);
    };
    const { results } = await selfTest(broken, undefined, { onBegin, endsAtError: true });
    const last = { name: 'SwiGLU', dtype: 'fp32', isError: true, failure: '[cuda] cannot run a step' };
    expect(results.at(-1)).toMatchObject(last);
    expect(results.slice(0, -1).every(({ failure }) => failure === null)).toBe(true);
    const [at, name] = begun.at(-1) as [number, string];
    expect([at, name]).toEqual([results.length - 1, 'SwiGLU in fp32']);
    using device = openDevice('cpu', { threads: 1 });
    const rest = await selfTest(device, undefined, { onBegin, from: at + 1 });
    expect(begun[at + 1]).toEqual([at + 1, 'SwiGLU in bf16']);
    expect(rest.results.every(({ failure }) => failure === null)).toBe(true);
  });

  it('is not for the processor', async () => {
    using device = wrongIn('cpu', 'matmul');
    expect(await trustDevice(device, join(folder, 'none.json'))).toEqual([]);
  });
});
