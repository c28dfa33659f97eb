// Collectives of every backend against plain sums, in one process: each rank is a device of it. test/native/comm-ending.test.ts
// has what happens when ranks go missing.
import { describe, expect, it } from 'vitest';
import { Graph, type Value } from '../../src/graph/graph.js';
import { allGather, allReduce, allToAll, broadcastFrom, reduceScatter, shareSize } from '../../src/ops/collectives.js';
import { compile } from '../../src/runtime/compile.js';
import type { Device } from '../../src/runtime/device.js';
import { type FloatDType, roundTo } from '../support/compare.js';
import { joinedDevices } from '../support/joined-devices.js';
import { Rng } from '../support/rng.js';

type Build = (x: Value) => Value | undefined;

/** Runs a program of one input and one output, whose fp32 numbers it gives. */
function runner(shape: number[], build: Build) {
  const graph = new Graph();
  const result = build(graph.input('x', shape, 'fp32')) as Value;
  graph.output('y', result);
  return async (device: Device, x: Float32Array): Promise<Float32Array> => {
    using y = device.allocate(result.shape, result.dtype);
    const program = device.load(compile(graph, device.target));
    await device.run([{ program, slots: { y }, inputs: { x } }]);
    return y.toFloat32();
  };
}

const numbers = (count: number, seed: number): Float32Array => {
  const rng = new Rng(seed);
  return new Float32Array(count).map(() => rng.uniform() * 2 - 1);
};

const ulps = { fp32: 2 ** -23, bf16: 2 ** -8, fp16: 2 ** -11 };

describe.each(['gloo', 'nccl'] as const)('%s', (backend) => {
  describe.each([1, 2, 3, 4])('with %d ranks', (size) => {
    const ranks = { axis: 'dp', size } as const;
    // Fewer numbers than ranks; what goes to everyone at once, by cube and round a ring; none of them divides.
    const counts = [1, 1001, 100_003, 600_011];

    it('sums, the same bits on all ranks and again', async () => {
      using joined = await joinedDevices(size, { backend });
      for (const wire of ['fp32', 'bf16', 'fp16'] as const) {
        for (const count of counts) {
          const run = runner([count], (x) => allReduce([x], { ...ranks, op: 'sum', wire })[0]);
          const inputs = joined.devices.map((_, rank) => numbers(count, 100 * count + rank));
          const results = await joined.all((device, rank) => run(device, inputs[rank]!));
          const again = await joined.all((device, rank) => run(device, inputs[rank]!));
          const allowed = size * 2 * ulps[wire];
          for (let i = 0; i < count; i += Math.ceil(count / 5000)) {
            const sum = inputs.reduce((sum, x) => sum + roundTo(wire, x[i]!), 0);
            expect(Math.abs(results[0]![i]! - sum), `${wire} ${count} [${i}]`).toBeLessThanOrEqual(allowed);
          }
          for (const result of [...results, ...again])
            expect(Buffer.from(result.buffer).equals(Buffer.from(results[0]!.buffer))).toBe(true);
        }
      }
    });

    it('finds the least and the greatest', async () => {
      using joined = await joinedDevices(size, { backend });
      const inputs = joined.devices.map((_, rank) => numbers(1000, rank));
      for (const op of ['min', 'max'] as const) {
        const run = runner([1000], (x) => allReduce([x], { ...ranks, op, wire: 'fp32' })[0]);
        const expected = inputs[0]!.map((_, i) => Math[op](...inputs.map((x) => x[i]!)));
        for (const result of await joined.all((device, rank) => run(device, inputs[rank]!)))
          expect(result).toEqual(expected);
      }
    });

    it('sums shares', async () => {
      using joined = await joinedDevices(size, { backend });
      for (const wire of ['fp32', 'bf16'] as FloatDType[]) {
        for (const count of counts) {
          const run = runner([count], (x) => reduceScatter([x], { ...ranks, op: 'sum', wire })[0]);
          const inputs = joined.devices.map((_, rank) => numbers(count, 100 * count + rank));
          const results = await joined.all((device, rank) => run(device, inputs[rank]!));
          const share = shareSize(count, size);
          for (let i = 0; i < share * size; i += Math.ceil(count / 5000)) {
            const sum = inputs.reduce((sum, x) => sum + roundTo(wire, x[i] ?? 0), 0);
            const got = results[Math.floor(i / share)]![i % share]!;
            expect(Math.abs(got - sum), `${wire} ${count} [${i}]`).toBeLessThanOrEqual(size * 2 * ulps[wire]);
          }
        }
      }
    });

    it('gathers, exchanges and broadcasts', async () => {
      using joined = await joinedDevices(size, { backend });
      for (const count of counts) {
        const share = shareSize(count, size);
        const whole = numbers(share * size, count);
        const shares = runner([share], (x) => allGather([{ share: x, shape: [count] }], ranks)[0]);
        for (const result of await joined.all((device, rank) =>
          shares(device, whole.slice(rank * share, (rank + 1) * share)),
        )) {
          expect(Buffer.compare(bytes(result), bytes(whole.subarray(0, count)))).toBe(0);
        }

        const parts = joined.devices.map((_, rank) => numbers(size * share, rank));
        const exchange = runner([size, share], (x) => allToAll([x], ranks)[0]);
        for (const [rank, result] of (await joined.all((device, rank) => exchange(device, parts[rank]!))).entries()) {
          const expected = Buffer.concat(parts.map((part) => bytes(part.subarray(rank * share, (rank + 1) * share))));
          expect(Buffer.compare(bytes(result), expected)).toBe(0);
        }

        const root = size - 1;
        const broadcast = runner([size * share], (x) => broadcastFrom([x], ranks, root)[0]);
        for (const result of await joined.all((device, rank) => broadcast(device, parts[rank]!))) {
          expect(Buffer.compare(bytes(result), bytes(parts[root]!))).toBe(0);
        }
      }
    });
  });

  it('counts what goes over the wire', async () => {
    using joined = await joinedDevices(2, { backend });
    const before = joined.groups.map((group) => group.wireBytes());
    const run = runner([1 << 20], (x) => allReduce([x], { axis: 'dp', size: 2, op: 'sum', wire: 'fp32' })[0]);
    await joined.all((device) => run(device, new Float32Array(1 << 20)));
    for (const [rank, group] of joined.groups.entries()) {
      const { sent, received } = group.wireBytes();
      // Half of it as addends, half as sums, and some headers.
      for (const bytes of [sent - before[rank]!.sent, received - before[rank]!.received]) {
        expect(bytes).toBeGreaterThanOrEqual(4 * 2 ** 20);
        expect(bytes).toBeLessThan(4.1 * 2 ** 20);
      }
    }
  });
});

const bytes = (array: Float32Array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength);
