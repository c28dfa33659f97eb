// Groups of several devices of one process, over NCCL's stand-in; test/native/comm.test.ts has the collectives themselves.
import { describe, expect, it } from 'vitest';
import { openProcessGroup } from '../../src/dist/process-group.js';
import { Graph } from '../../src/graph/graph.js';
import { allReduce } from '../../src/ops/collectives.js';
import { compile } from '../../src/runtime/compile.js';
import type { Device } from '../../src/runtime/device.js';
import { joinedDevices, ncclStandIn } from '../support/joined-devices.js';

function summing(size: number, count: number) {
  const graph = new Graph();
  const [sum] = allReduce([graph.input('x', [count], 'fp32')], { axis: 'dp', size, op: 'sum', wire: 'fp32' });
  graph.output('sum', sum as NonNullable<typeof sum>);
  return async (device: Device, x: Float32Array): Promise<Float32Array> => {
    using y = device.allocate([count], 'fp32');
    const program = device.load(compile(graph, device.target));
    await device.run([{ program, slots: { sum: y }, inputs: { x } }]);
    return y.toFloat32();
  };
}

describe('devices of one process', () => {
  it.each([1, 2, 3, 4])('sum over %d ranks', async (size) => {
    using joined = await joinedDevices(size);
    const run = summing(size, 1000);
    for (let round = 0; round < 3; round++) {
      const sums = await joined.all((device, rank) =>
        run(
          device,
          new Float32Array(1000).map((_, i) => i * (rank + 1) + round),
        ),
      );
      const expected = new Float32Array(1000).map((_, i) => (i * size * (size + 1)) / 2 + size * round);
      for (const sum of sums) expect(sum).toEqual(expected);
    }
  });

  it('fail when one of them does not come, and from then on', async () => {
    using joined = await joinedDevices(2, { timeout: 0.3 });
    const [first, second] = joined.devices as [Device, Device];
    const run = summing(2, 4);
    await expect(run(first, new Float32Array(4))).rejects.toMatchObject({
      code: 'HADAL_ERR_COMM',
      message:
        /^\[comm\] all-reduce of 16 bytes on rank 0 of 2 expected all to take part within 300 ms; rank 1 did not come to it/,
    });
    await expect(run(second, new Float32Array(4))).rejects.toMatchObject({ code: 'HADAL_ERR_COMM' });
    await expect(run(first, new Float32Array(4))).rejects.toMatchObject({ code: 'HADAL_ERR_COMM' });
  });

  it('fail at once when one of them ends', async () => {
    using joined = await joinedDevices(3);
    const run = summing(3, 4);
    const begin = performance.now();
    const waiting = joined.devices.slice(0, 2).map((device) => run(device, new Float32Array(4)));
    setTimeout(() => joined.devices[2]?.dispose(), 50);
    for (const result of await Promise.allSettled(waiting)) {
      expect(result).toMatchObject({ status: 'rejected', reason: { code: 'HADAL_ERR_COMM' } });
    }
    expect(performance.now() - begin).toBeLessThan(5000);
  });

  it('may be disposed of while they wait for each other', async () => {
    const joined = await joinedDevices(2);
    const waiting = summing(2, 4)(joined.devices[0] as Device, new Float32Array(4));
    setTimeout(() => joined[Symbol.dispose](), 20);
    await expect(waiting).rejects.toMatchObject({ code: 'HADAL_ERR_DISPOSED' });
  });
});

describe('a library', () => {
  const group = { rank: 0, size: 2, timeout: 0.2, exchange: async (address: Uint8Array) => [address, address] };

  it('that is not there is an error that says what to install', async () => {
    await expect(openProcessGroup({ ...group, backend: 'nccl', library: 'nowhere.so' })).rejects.toMatchObject({
      code: 'HADAL_ERR_COMM',
      message: /\[comm\] expected NCCL, cannot open it .*nowhere\.so.*; install libnccl2, or set HADAL_NCCL/,
    });
    await expect(openProcessGroup({ ...group, backend: 'gloo', library: 'nowhere.so' })).rejects.toMatchObject({
      code: 'HADAL_ERR_COMM',
      message: /\[comm\] expected Gloo, cannot open it .*; install libgloo-dev, then npm run build:native/,
    });
  });

  it('that opens joins only when all ranks come', async () => {
    await expect(openProcessGroup({ ...group, backend: 'nccl', library: ncclStandIn() })).rejects.toMatchObject({
      code: 'HADAL_ERR_COMM',
      message: /rank 0 expected to connect with rank 1 within 200 ms, got no answer/,
    });
  });
});
