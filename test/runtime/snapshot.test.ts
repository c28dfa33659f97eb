// Copies of tensors are of their moment, whatever the steps after it do.
import { describe, expect, it } from 'vitest';
import { Graph } from '../../src/graph/graph.js';
import { add } from '../../src/ops/elementwise.js';
import { openDevice } from '../../src/runtime/device.js';
import { plan } from '../../src/runtime/plan.js';
import { Snapshot } from '../../src/runtime/snapshot.js';

const size = 1 << 22;
const part = { shape: [size], offset: 0 };

/** A device whose step adds one to every number of `x` and `y`. */
function counting() {
  const device = openDevice('cpu', { threads: 2 });
  const graph = new Graph();
  for (const name of ['x', 'y']) graph.update(name, add(graph.slot(name, [size], 'fp32'), 1));
  const program = device.load(plan(graph, 2));
  const [x, y] = [device.allocate([size], 'fp32'), device.allocate([size], 'fp32')];
  return {
    device,
    x,
    y,
    step: () => device.run([{ program, slots: { x, y } }]),
    [Symbol.dispose]: () => device.dispose(),
  };
}

const isAll = (bytes: Uint8Array, value: number) =>
  new Float32Array(bytes.buffer, bytes.byteOffset, size).every((x) => x === value);

describe('a snapshot', () => {
  it('holds what was there when it was taken, while steps go on writing', async () => {
    using counter = counting();
    const { device, x, y, step } = counter;
    for (let round = 0; round < 10; round++) {
      await step();
      const snapshot = new Snapshot(device, [x, y, x]);
      snapshot.take();
      const steps = [step(), step(), step()]; // posted before a byte was copied, perhaps
      expect(isAll(await snapshot.read(x, part), 4 * round + 1)).toBe(true);
      expect(isAll(await snapshot.read(y, part), 4 * round + 1)).toBe(true);
      await Promise.all(steps);
      expect(snapshot.buffers).toHaveLength(1);
      expect((await x.toFloat32())[size - 1]).toBe(4 * round + 4);
    }
  });

  it('is not changed by what is written into the tensors, either', async () => {
    using counter = counting();
    const { device, x } = counter;
    const ones = new Float32Array(size).fill(1);
    const snapshot = new Snapshot(device, [x]);
    snapshot.take();
    await x.write(ones);
    expect(isAll(await snapshot.read(x, part), 0)).toBe(true);
    expect(isAll(new Uint8Array((await x.toFloat32()).buffer), 1)).toBe(true);
  });

  it('two at a time are of two moments', async () => {
    using counter = counting();
    const { device, x, y, step } = counter;
    const [first, second] = [new Snapshot(device, [x, y]), new Snapshot(device, [y])];
    first.take();
    const one = step();
    second.take();
    const two = step();
    expect(isAll(await first.read(y, part), 0)).toBe(true);
    expect(isAll(await second.read(y, part), 1)).toBe(true);
    await Promise.all([one, two]);
  });

  it('of a device that ends is refused in words', async () => {
    const { device, x, step } = counting();
    const snapshot = new Snapshot(device, [x]);
    const running = step();
    snapshot.take();
    device.dispose();
    const results = await Promise.allSettled([running, snapshot.read(x, part)]);
    for (const result of results) {
      if (result.status === 'rejected') expect(result.reason).toMatchObject({ code: 'HADAL_ERR_DISPOSED' });
    }
    expect(results.some(({ status }) => status === 'rejected')).toBe(true);
  });

  it('of a device that has ended is refused in the same words, whenever room was made for it', async () => {
    const { device, x } = counting();
    const earlier = new Snapshot(device, [x]);
    device.dispose();
    for (const snapshot of [earlier, new Snapshot(device, [x])]) {
      snapshot.take();
      await expect(snapshot.read(x, part)).rejects.toMatchObject({ code: 'HADAL_ERR_DISPOSED' });
    }
  });
});
