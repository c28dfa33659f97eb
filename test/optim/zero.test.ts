import fc from 'fast-check';
import { expect, it } from 'vitest';
import { Graph } from '../../src/graph/graph.js';
import { gathered, normOfShards, scatterGradients, shardOf, shardOfSlot, shardOfWhole } from '../../src/optim/zero.js';
import { compile } from '../../src/runtime/compile.js';
import { joinedDevices } from '../support/joined-devices.js';
import { dist } from '../train/tiny-ranks.js';

it('shards of all ranks are the tensor, each number once, and equally large', () => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 100 }), fc.integer({ min: 1, max: 12 }), (numbers, worldSize) => {
      const shards = Array.from({ length: worldSize }, (_, rank) => shardOf(numbers, { rank, worldSize }));
      let at = 0;
      for (const { begin, end, size } of shards) {
        expect([begin, size]).toEqual([at, Math.ceil(numbers / worldSize)]);
        expect(end - begin).toBeLessThanOrEqual(size);
        at = end;
      }
      expect(at).toBe(numbers);
    }),
  );
});

it('slots tell what they are shards of', () => {
  const parameters = new Map([['model.norm.weight', { shape: [10] }]]);
  const sharing = { ...dist(3, 4), zero: 1 };
  const shard = { parameter: 'model.norm.weight', begin: 9, end: 10, size: 3 };
  expect(shardOfSlot('shard/model.norm.weight', parameters, sharing)).toEqual({ kind: 'shard', ...shard });
  expect(shardOfSlot('adam.m/model.norm.weight', parameters, sharing)).toEqual({ kind: 'adam.m', ...shard });
  for (const slot of ['state/updates', 'model.norm.weight', 'adam.m/other'])
    expect(shardOfSlot(slot, parameters, sharing)).toBeNull();
  expect(shardOfSlot('adam.m/model.norm.weight', parameters, dist(3, 4))).toBeNull();
});

it('sums reach their owners, and what they make of them all ranks, also of tensors smaller than ranks', async () => {
  const worldSize = 4;
  const sizes = [1, 3, 4, 7, 16];
  using joined = await joinedDevices(worldSize);
  const made = await joined.all(async (device, rank) => {
    const sharing = { ...dist(rank, worldSize), zero: 1 };
    const graph = new Graph();
    const grads = sizes.map((size) => graph.input(`x${size}`, [size], 'fp32'));
    const shards = scatterGradients(grads, sharing);
    for (const [i, size] of sizes.entries()) {
      graph.output(`sum${size}`, gathered(shards[i]!, [size], sharing));
      graph.output(`own${size}`, gathered(shardOfWhole(grads[i]!, sharing), [size], sharing));
    }
    graph.output('norm', normOfShards(shards, sharing));
    const program = device.load(compile(graph, 1));
    const slots = Object.fromEntries(
      program.slots.map(({ name, shape, dtype }) => [name, device.allocate(shape, dtype)]),
    );
    const inputs = Object.fromEntries(
      sizes.map((size) => [`x${size}`, Float32Array.from({ length: size }, (_, i) => 10 * rank + i)]),
    );
    await device.run([{ program, slots, inputs }]);
    const read = Object.entries(slots).map(async ([name, tensor]) => [name, [...(await tensor.toFloat32())]] as const);
    return Object.fromEntries(await Promise.all(read));
  });
  let squares = 0;
  for (const size of sizes) {
    // 0 + 10 + 20 + 30, and of its owner's numbers those of its own.
    const sum = Array.from({ length: size }, (_, i) => 60 + 4 * i);
    const own = Array.from({ length: size }, (_, i) => 10 * Math.floor(i / Math.ceil(size / worldSize)) + i);
    squares += sum.reduce((total, x) => total + x * x, 0);
    for (const values of made) expect([values[`sum${size}`], values[`own${size}`]]).toEqual([sum, own]);
  }
  for (const { norm } of made) expect(norm?.[0]).toBeCloseTo(Math.sqrt(squares), 3);
});
