// Groups in two levels, of several devices of one process over NCCL's stand-in.
import { describe, expect, it } from 'vitest';
import type { NativeProcessGroup } from '../../src/addon/addon.js';
import { leastBytesFrom, levelsOf, openWholeGroup, thisPlace } from '../../src/dist/hierarchical.js';
import { defaultLeastBytes } from '../../src/dist/topology.js';
import { Graph } from '../../src/graph/graph.js';
import { allReduce } from '../../src/ops/collectives.js';
import { compile } from '../../src/runtime/compile.js';
import { type Device, openDevice } from '../../src/runtime/device.js';
import { ncclStandIn } from '../support/joined-devices.js';

/** What `World.gather` does, among ranks of one process. */
function gathering(size: number): (rank: number) => <T>(name: string, value: T) => Promise<T[]> {
  const rounds = new Map<string, { values: unknown[]; waiting: ((values: unknown[]) => void)[] }>();
  return (rank) =>
    <T>(name: string, value: T) =>
      new Promise<T[]>((resolve) => {
        const round = rounds.get(name) ?? { values: [], waiting: [] };
        rounds.set(name, round);
        round.values[rank] = value;
        round.waiting.push(resolve as (values: unknown[]) => void);
        if (round.waiting.length < size) return;
        for (const each of round.waiting) each(round.values);
      });
}

type F32 = Float32Array;

interface Ranks extends Disposable {
  devices: Device[];
  groups: NativeProcessGroup[];
}

/** A device for each entry of `boxes`, which says which box it is in. */
async function ranksIn(boxes: readonly number[], leastBytes: (rank: number) => number | null): Promise<Ranks> {
  const size = boxes.length;
  const gather = gathering(size);
  const devices = boxes.map(() => openDevice('cpu', { threads: 1 }));
  const groups = await Promise.all(
    boxes.map((box, rank) =>
      openWholeGroup({
        ...({ backend: 'nccl', library: ncclStandIn(), timeout: 20 } as const),
        ...{ rank, size, gather: gather(rank), leastBytes: leastBytes(rank) },
        place: { host: `host ${box}`, bootId: '', network: '' },
      }),
    ),
  );
  for (const [rank, device] of devices.entries()) device.setGroup('dp', groups[rank] ?? null);
  return {
    devices,
    groups,
    [Symbol.dispose]() {
      for (const device of devices) device.dispose();
      for (const group of groups) group.dispose();
    },
  };
}

/** All-reduces a vector of each rank; of so many, where others do not come. */
function started({ devices }: Ranks, count: number, op: 'sum' | 'max', coming: number): Promise<F32>[] {
  const graph = new Graph();
  const ranks = { axis: 'dp', size: devices.length } as const;
  const [y] = allReduce([graph.input('x', [count], 'fp32')], { ...ranks, op, wire: 'fp32' });
  graph.output('y', y as NonNullable<typeof y>);
  return devices.slice(0, coming).map(async (device, rank) => {
    using y = device.allocate([count], 'fp32');
    const program = device.load(compile(graph, 1));
    await device.run([{ program, slots: { y }, inputs: { x: vector(rank, count) } }]);
    return y.toFloat32();
  });
}

const sums = (ranks: Ranks, count: number, op: 'sum' | 'max' = 'sum') =>
  Promise.all(started(ranks, count, op, ranks.devices.length));

/** Sums of them are not the same in every order. */
const vector = (rank: number, count: number) => Float32Array.from({ length: count }, (_, i) => Math.sin(i + 7 * rank));

describe('all-reduces in two levels', () => {
  it.each([
    ['2 boxes of 2', [0, 0, 1, 1]],
    ['3 boxes of 2, dealt in turn', [0, 1, 2, 0, 1, 2]],
    ['2 boxes of 3', [0, 0, 0, 1, 1, 1]],
  ])('give all ranks the same bits in %s', async (_, boxes) => {
    using ranks = await ranksIn(boxes, () => 0);
    for (const count of [1, 5, 1000, 4099]) {
      const found = await sums(ranks, count);
      for (const each of found) expect(each).toEqual(found[0]);
      const vectors = boxes.map((_, rank) => vector(rank, count));
      const error = (found[0] as Float32Array).map((sum, i) =>
        Math.abs(sum - vectors.reduce((exact, each) => exact + (each[i] as number), 0)),
      );
      expect(Math.max(...error)).toBeLessThan(1e-6);
    }
    const [greatest] = await sums(ranks, 4099, 'max');
    const expected = Float32Array.from(greatest as Float32Array, (_, i) =>
      Math.max(...boxes.map((_, rank) => Math.fround(Math.sin(i + 7 * rank)))),
    );
    expect(greatest).toEqual(expected);
  });

  it('are for sums of so many bytes, as rank 0 has it', async () => {
    using ranks = await ranksIn([0, 0, 1, 1], (rank) => (rank === 0 ? 4000 : null));
    // The box's sums are what crosses: (0 + 1) + (2 + 3), in fp32.
    const pairwise = (count: number) => {
      const [a, b, c, d] = [0, 1, 2, 3].map((rank) => vector(rank, count)) as [F32, F32, F32, F32];
      return a.map((x, i) => Math.fround(x + (b[i] as number)) + Math.fround((c[i] as number) + (d[i] as number)));
    };
    expect((await sums(ranks, 999))[0]).not.toEqual(pairwise(999));
    expect((await sums(ranks, 1000))[0]).toEqual(pairwise(1000));
  });

  it.each([
    ['one box', [0, 0, 0]],
    ['boxes of one rank', [0, 1, 2]],
    ['boxes of unequal numbers', [0, 0, 1]],
  ])('are not for %s', async (_, boxes) => {
    using ranks = await ranksIn(boxes, () => 0);
    const found = await sums(ranks, 1000);
    for (const each of found) expect(each).toEqual(found[0]);
  });

  it('end when their group is aborted, in whichever level they are', async () => {
    using ranks = await ranksIn([0, 0, 1, 1], () => 0);
    const waiting = Promise.allSettled(started(ranks, 1000, 'sum', 3));
    setTimeout(
      () =>
        ranks.groups.forEach((group) => {
          group.abort('rank 3 was lost');
        }),
      50,
    );
    for (const result of await waiting) {
      expect(result).toMatchObject({
        status: 'rejected',
        reason: { code: 'HADAL_ERR_COMM', message: /rank 3 was lost/ },
      });
    }
  });
});

describe('the levels', () => {
  it('of a rank are its box and those with its place in theirs', () => {
    const boxes = [
      [0, 2],
      [1, 3],
    ];
    expect(levelsOf({ boxes, leastBytes: 0 }, 3)).toEqual({ box: [1, 3], across: [2, 3] });
    expect(levelsOf({ boxes, leastBytes: 0 }, 0)).toEqual({ box: [0, 2], across: [0, 1] });
  });

  it('are for the sizes that the environment says', () => {
    expect(leastBytesFrom(undefined)).toBe(defaultLeastBytes);
    expect(leastBytesFrom('auto')).toBe(defaultLeastBytes);
    expect(leastBytesFrom('off')).toBeNull();
    expect(leastBytesFrom('1048576')).toBe(1_048_576);
    expect(() => leastBytesFrom('1M')).toThrow(/HADAL_COMM_HIERARCHY to be auto, off or bytes, got '1M'/);
  });

  it('come from where processes run', async () => {
    const place = await thisPlace();
    expect(place).toEqual(await thisPlace());
    expect(place.host).not.toBe('');
  });
});
