// What runs steps on a GPU, on the simulated one: launches that become graphs, faults, predicates, copies, refusals.
import { afterEach, describe, expect, it } from 'vitest';
import { loadAddon } from '../../src/addon/addon.js';
import { Graph } from '../../src/graph/graph.js';
import { add, multiply } from '../../src/ops/elementwise.js';
import { embedding } from '../../src/ops/embedding.js';
import { matmul } from '../../src/ops/matmul.js';
import { sum } from '../../src/ops/reduce.js';
import { reshape } from '../../src/ops/shape.js';
import { BackingFile } from '../../src/runtime/backing-file.js';
import { compile } from '../../src/runtime/compile.js';
import { type Device, openDevice, type Program } from '../../src/runtime/device.js';
import { runKernel } from '../../src/runtime/run-kernel.js';
import { Snapshot } from '../../src/runtime/snapshot.js';
import type { Tensor } from '../../src/runtime/tensor.js';
import { expectHadalError } from '../support/op-case.js';

afterEach(() => {
  delete process.env.HADAL_CUDA_GRAPHS;
  delete process.env.HADAL_CUDA_SYNC;
});

const [rows, inner, columns, vocabulary] = [6, 40, 24, 50];
const ids = (round: number) => Int32Array.from({ length: rows }, (_, i) => (7 * i + round) % vocabulary);

/** A step with a state: total += Σ (table[ids] · w)², where `flag` says so; gives the product, too. */
function counting(device: Device): { program: Program; slots: Record<string, Tensor> } {
  const graph = new Graph();
  const x = embedding(graph.slot('table', [vocabulary, inner], 'fp32'), graph.input('ids', [rows], 'int32'));
  const product = matmul(
    x,
    graph.constant(
      Float32Array.from({ length: inner * columns }, (_, i) => (i % 11) - 5),
      [inner, columns],
    ),
  );
  const total = graph.slot('total', [1], 'fp32');
  graph.predicated(graph.input('flag', [1], 'int32'), () => {
    graph.update('total', add(total, reshape(sum(multiply(product, product), [0, 1]), [1])));
  });
  graph.output('product', product);
  const program = device.load(compile(graph, device.target));
  const slots = Object.fromEntries(
    program.slots.map(({ name, shape, dtype }) => [name, device.allocate(shape, dtype)]),
  );
  return { program, slots };
}

/** Totals and products of some rounds, the third of which is not to be counted. */
async function rounds(device: Device, count = 5) {
  const { program, slots } = counting(device);
  await slots.table?.write(Float32Array.from({ length: vocabulary * inner }, (_, i) => (i % 13) - 6));
  const seen: number[][] = [];
  for (let round = 0; round < count; round++) {
    await device.run([{ program, slots, inputs: { ids: ids(round), flag: Int32Array.of(round === 2 ? 0 : 1) } }]);
    seen.push([...(await (slots.total as Tensor).toFloat32()), ...(await (slots.product as Tensor).toFloat32())]);
  }
  return seen;
}

describe.skipIf(!loadAddon().backend('cuda-sim').isBuilt)('the simulated GPU', () => {
  it('says what it is', () => {
    using device = openDevice('cuda-sim');
    expect([device.name, device.instructionSet, device.target.backend]).toEqual(['cuda-sim', 'sm_80', 'cuda-sim']);
    expect(device.threads).toBeGreaterThan(0);
  });

  it.each([
    ['launched, then replayed as a graph', {}],
    ['launched each time', { HADAL_CUDA_GRAPHS: '0' }],
    ['waited for after each kernel', { HADAL_CUDA_SYNC: '1' }],
  ])('runs a step again and again, %s, as the processor does', async (_, environment) => {
    Object.assign(process.env, environment);
    using device = openDevice('cuda-sim');
    using processor = openDevice('cpu', { threads: 1 });
    // Whole numbers: every order of sums gives the same.
    const [got, expected] = [await rounds(device), await rounds(processor)];
    expect(got).toEqual(expected);
    expect(got[2]?.[0]).toBe(got[1]?.[0]);
    expect(got[3]?.[0]).toBeGreaterThan(got[2]?.[0] as number);
  });

  it('follows a step into other memory', async () => {
    using device = openDevice('cuda-sim');
    const first = await rounds(device);
    expect(await rounds(device)).toEqual(first);
  });

  it.each(['0', '1'])(
    'refuses bad data with the words of the processor, and leaves state as it was (graphs: %s)',
    async (graphs) => {
      process.env.HADAL_CUDA_GRAPHS = graphs;
      const messages: string[] = [];
      for (const name of ['cpu', 'cuda-sim']) {
        using device = openDevice(name, { threads: 1 });
        const { program, slots } = counting(device);
        await slots.table?.write(new Float32Array(vocabulary * inner).fill(1));
        const step = (wrong: number) => {
          const inputs = { ids: ids(0).with(3, wrong), flag: Int32Array.of(1) };
          return device.run([{ program, slots, inputs }]);
        };
        for (let i = 0; i < 3; i++) await step(1);
        const before = await slots.total?.toFloat32();
        expect(before?.[0]).toBeGreaterThan(0);
        await step(vocabulary).then(
          () => expect.unreachable(),
          (error: Error) => messages.push(error.message),
        );
        expect(await slots.total?.toFloat32()).toEqual(before);
        await step(2); // and goes on
        expect((await slots.total?.toFloat32())?.[0]).toBeGreaterThan(before?.[0] as number);
      }
      expect(messages[1]).toMatch(/^\[embedding\] expected ids .*got 50.* \(op 'embedding'\)$/);
      expect(messages[1]).toBe(messages[0]);
    },
  );

  it('takes the time of each instruction', async () => {
    using device = openDevice('cuda-sim');
    const { program, slots } = counting(device);
    const inputs = { ids: ids(0), flag: Int32Array.of(1) };
    const { instructions } = await device.run([{ program, slots, inputs }], { profile: true });
    expect(instructions.map(({ op }) => op)).toContain('matmul');
    expect(instructions.every(({ ms }) => ms >= 0)).toBe(true);
    expect(instructions.reduce((total, { ms }) => total + ms, 0)).toBeGreaterThan(0);
  });

  it('runs one kernel alone on memory of JavaScript', async () => {
    using device = openDevice('cuda-sim');
    const [x, y] = [Float32Array.of(1, -2, 3, -4), new Float32Array(2)];
    const params = {
      outer: 2,
      reduced: 2,
      inner: 1,
      reduction: 0,
      extentUnit: 0,
      scale: 1,
      dtype: 'fp32',
      outputType: 'fp32',
    } as const;
    await runKernel(device, 'reduce', params, [x, null, y]);
    expect([...y]).toEqual([-1, -1]);
  });

  it('copies parts of tensors, of more than what is staged at once, and of their moment', async () => {
    using device = openDevice('cuda-sim');
    const count = 9 * 2 ** 20; // 36 MiB
    using tensor = device.allocate([count], 'fp32');
    expect((await tensor.read(new Float32Array(3), 4 * (count - 3))).join()).toBe('0,0,0');
    await tensor.write(Float32Array.from({ length: count }, (_, i) => i));
    const snapshot = new Snapshot(device, [tensor]);
    snapshot.take();
    await tensor.write(Float32Array.of(-1, -2), 4 * 5_000_000);
    expect([...(await tensor.read(new Float32Array(4), 4 * 4_999_999))]).toEqual([4_999_999, -1, -2, 5_000_002]);
    const bytes = await snapshot.read(tensor, { shape: [count], offset: 0 });
    const numbers = new Float32Array(bytes.buffer, bytes.byteOffset, count);
    expect([...numbers.subarray(4_999_999, 5_000_003)]).toEqual([4_999_999, 5_000_000, 5_000_001, 5_000_002]);
  });

  it('keeps what lies in a file elsewhere in memory that its kernels reach', async () => {
    using device = openDevice('cuda-sim');
    using file = new BackingFile('/tmp');
    const { program, slots } = counting(device);
    const table = device.allocate([vocabulary, inner], 'fp32', { file });
    await table.write(new Float32Array(vocabulary * inner).fill(1));
    const inputs = { ids: ids(0), flag: Int32Array.of(1) };
    await device.run([{ program, slots: { ...slots, table }, inputs }]);
    expect((await slots.total?.toFloat32())?.[0]).toBeGreaterThan(0);
  });

  it('frees what steps have worked on once it is disposed of', async () => {
    using device = openDevice('cuda-sim');
    const { program, slots } = counting(device);
    const inputs = { ids: ids(0), flag: Int32Array.of(1) };
    for (let i = 0; i < 3; i++) await device.run([{ program, slots, inputs }]);
    const before = device.native.memory().live;
    slots.table?.dispose();
    expect(before - device.native.memory().live).toBe(4 * vocabulary * inner);
  });

  it('makes tensors while steps are captured and run, and leaves them alone', async () => {
    using device = openDevice('cuda-sim');
    const tensors: Tensor[] = [];
    for (let round = 0; round < 8; round++) {
      const { program, slots } = counting(device);
      const inputs = { ids: ids(0), flag: Int32Array.of(1) };
      const steps = Array.from({ length: 3 }, () => device.run([{ program, slots, inputs }]));
      for (let i = 0; i < 20; i++) tensors.push(device.allocate([3], 'fp32'));
      await Promise.all(steps);
      for (const tensor of tensors.slice(-20)) await tensor.write(Float32Array.of(1, 2, 3));
      await device.run([{ program, slots, inputs }]);
    }
    for (const tensor of tensors) expect([...(await tensor.toFloat32())]).toEqual([1, 2, 3]);
  });

  it('takes no times of a step that failed for those of the next', async () => {
    using device = openDevice('cuda-sim');
    const { program, slots } = counting(device);
    const step = (wrong: number, profile: boolean) =>
      device.run([{ program, slots, inputs: { ids: ids(0).with(3, wrong), flag: Int32Array.of(1) } }], { profile });
    for (let i = 0; i < 3; i++) await step(1, false);
    await expect(step(vocabulary, true)).rejects.toThrow('expected ids');
    expect(await step(1, false)).toMatchObject({ instructions: [] });
  });

  it('counts its memory, and says how much there is when there is not enough', () => {
    using device = openDevice('cuda-sim');
    const before = device.native.memory();
    const tensor = device.allocate([2 ** 20], 'fp32');
    expect(device.native.memory().live - before.live).toBe(2 ** 22);
    tensor.dispose();
    expect(device.native.memory().live).toBe(before.live);
    expect(device.native.memory().peak).toBeGreaterThanOrEqual(before.live + 2 ** 22);
    expectHadalError(
      () => device.allocate([2 ** 42], 'fp32'),
      'HADAL_ERR_MEMORY',
      /of the GPU's memory, of which \d+ of \d+ are free/,
    );
  });

  it('takes no plan of another device, and no tensor', async () => {
    using device = openDevice('cuda-sim');
    using processor = openDevice('cpu', { threads: device.threads });
    const { program, slots } = counting(device);
    const inputs = { ids: ids(0), flag: Int32Array.of(1) };
    await expect(processor.run([{ program, slots, inputs }])).rejects.toMatchObject({ code: 'HADAL_ERR_DEVICE' });
    const graph = new Graph();
    graph.output('y', add(graph.input('x', [2], 'fp32'), 1));
    expectHadalError(
      () => processor.load(compile(graph, device.target)),
      'HADAL_ERR_DEVICE',
      /threads of cpu, got one for \d+ of cuda-sim/,
    );
  });

  it('ends with what was queued when it is disposed of', async () => {
    const device = openDevice('cuda-sim');
    const { program, slots } = counting(device);
    const inputs = { ids: ids(0), flag: Int32Array.of(1) };
    const queued = Array.from({ length: 5 }, () => device.run([{ program, slots, inputs }]));
    device.dispose();
    const ends = await Promise.allSettled(queued);
    const codes = ends.map((end) => (end.status === 'rejected' ? end.reason.code : 'done'));
    expect(codes.at(-1)).toBe('HADAL_ERR_DISPOSED');
    expect(codes.every((code) => ['done', 'HADAL_ERR_DISPOSED'].includes(code))).toBe(true);
  });
});

describe('devices', () => {
  it('that are not there are refused with the reason', () => {
    const { devices, why } = loadAddon().backend('cuda');
    expectHadalError(
      () => openDevice('cuda:99'),
      'HADAL_ERR_DEVICE',
      /expected a device 'cuda:99', got none: .+ take device cpu/,
    );
    if (devices.length === 0) expect(why).not.toBe('');
    expectHadalError(() => openDevice('gpu'), 'HADAL_ERR_DEVICE', /expected auto, cpu, cuda, .*got 'gpu'/);
  });

  it('auto is a GPU where there is one, else the processor', () => {
    using device = openDevice('auto', { threads: 1 });
    expect(device.target.backend).toBe(loadAddon().backend('cuda').devices.length > 0 ? 'cuda' : 'cpu');
  });
});
