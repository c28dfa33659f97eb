// Collectives of GPUs: NCCL's on their streams, in graphs from the second run on, and Gloo's on the host's side. The GPUs are
// simulated ones of this process, NCCL is its stand-in.
import { describe, expect, it } from 'vitest';
import { loadAddon } from '../../src/addon/addon.js';
import { Graph } from '../../src/graph/graph.js';
import { allReduce } from '../../src/ops/collectives.js';
import { multiply } from '../../src/ops/elementwise.js';
import { embedding } from '../../src/ops/embedding.js';
import { compile } from '../../src/runtime/compile.js';
import type { Device } from '../../src/runtime/device.js';
import { type JoinedDevices, joinedDevices } from '../support/joined-devices.js';

const count = 5000;

/** For each rank a step that is the same each time: x·x, summed over the ranks in two formats, and the sum times x. */
function steps(joined: JoinedDevices) {
  const size = joined.devices.length;
  const graph = new Graph();
  const x = graph.input('x', [count], 'fp32');
  const [sum] = allReduce([multiply(x, x)], { axis: 'dp', size, op: 'sum', wire: 'fp32' });
  const [coarse] = allReduce([x], { axis: 'dp', size, op: 'sum', wire: 'bf16' });
  graph.output('product', multiply(sum!, x));
  graph.output('coarse', coarse!);
  const runs = joined.devices.map((device) => {
    const program = device.load(compile(graph, device.target));
    const slots = { product: device.allocate([count], 'fp32'), coarse: device.allocate([count], 'fp32') };
    return async (x: Float32Array) => {
      await device.run([{ program, slots, inputs: { x } }]);
      return { product: await slots.product.toFloat32(), coarse: await slots.coarse.toFloat32() };
    };
  });
  return (_: Device, rank: number, round: number) => runs[rank]!(numbers(rank, round));
}

const numbers = (rank: number, round: number) =>
  new Float32Array(count).map((_, i) => ((i * (rank + 2) + round) % 61) - 30);

describe.skipIf(!loadAddon().backend('cuda-sim').isBuilt)('simulated GPUs', () => {
  it.each([
    ['nccl', 2],
    ['nccl', 4],
    ['gloo', 2],
  ] as const)('sum over %s with %d ranks, step after step', async (backend, size) => {
    using joined = await joinedDevices(size, { device: 'cuda-sim', backend });
    const step = steps(joined);
    const sent: number[] = [];
    for (let round = 0; round < 5; round++) {
      const before = joined.groups[0]!.wireBytes().sent;
      const results = await joined.all((device, rank) => step(device, rank, round));
      sent.push(joined.groups[0]!.wireBytes().sent - before);
      const inputs = joined.devices.map((_, rank) => numbers(rank, round));
      for (const [rank, { product, coarse }] of results.entries()) {
        const sum = (i: number, power: number) => inputs.reduce((total, x) => total + x[i]! ** power, 0);
        expect(product).toEqual(inputs[rank]!.map((own, i) => sum(i, 2) * own));
        expect(coarse).toEqual(inputs[rank]!.map((_, i) => sum(i, 1)));
      }
    }
    // A graph that is launched again sends as much as the calls that it was made of.
    expect(Math.min(...sent)).toBeGreaterThan(count * 4);
    if (backend === 'nccl') expect(new Set(sent).size).toBe(1);
  });

  it('fail when one of them does not come to a step that was run before', async () => {
    using joined = await joinedDevices(2, { device: 'cuda-sim', timeout: 0.5 });
    const step = steps(joined);
    for (let round = 0; round < 3; round++) await joined.all((device, rank) => step(device, rank, round));
    await expect(step(joined.devices[0]!, 0, 3)).rejects.toMatchObject({
      code: 'HADAL_ERR_COMM',
      message: expect.stringMatching(/expected all to take part within 500 ms; rank 1 did not come to it/),
    });
    await expect(step(joined.devices[1]!, 1, 3)).rejects.toMatchObject({ code: 'HADAL_ERR_COMM' });
  });

  it('fail at once when one of them ends', async () => {
    using joined = await joinedDevices(2, { device: 'cuda-sim' });
    const step = steps(joined);
    for (let round = 0; round < 3; round++) await joined.all((device, rank) => step(device, rank, round));
    const waiting = step(joined.devices[0]!, 0, 3);
    setTimeout(() => joined.devices[1]!.dispose(), 50);
    const begin = performance.now();
    await expect(waiting).rejects.toMatchObject({ code: 'HADAL_ERR_COMM' });
    expect(performance.now() - begin).toBeLessThan(5000);
  });

  it.each(['fp32', 'bf16'] as const)('give the others NaN in %s where one found bad data', async (wire) => {
    using joined = await joinedDevices(2, { device: 'cuda-sim' });
    const graph = new Graph();
    const table = graph.input('table', [4, 8], 'fp32');
    const [sum] = allReduce([embedding(table, graph.input('ids', [3], 'int32'))], {
      axis: 'dp',
      size: 2,
      op: 'sum',
      wire,
    });
    graph.output('sum', sum!);
    const run = async (device: Device, ids: number[]) => {
      using y = device.allocate([3, 8], 'fp32');
      const inputs = { table: new Float32Array(32).fill(1), ids: Int32Array.from(ids) };
      await device.run([{ program: device.load(compile(graph, device.target)), slots: { sum: y }, inputs }]);
      return y.toFloat32();
    };
    const [first, second] = await Promise.allSettled(
      joined.devices.map((device, rank) => run(device, [0, 1, rank === 1 ? 4 : 2])),
    );
    expect(first).toMatchObject({ status: 'fulfilled', value: new Float32Array(24).fill(Number.NaN) });
    expect(second).toMatchObject({
      status: 'rejected',
      reason: { message: expect.stringMatching(/\[embedding\].* 4 /) },
    });
  });
});
