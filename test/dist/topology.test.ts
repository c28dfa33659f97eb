import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  boxesOf,
  hierarchyOf,
  hierarchyPaysFrom,
  type LinkQuality,
  type Links,
  type Place,
  placeAxes,
  predictAllReduce,
  topologyOf,
} from '../../src/dist/topology.js';

const place = (host: string, network = 'net', bootId = `boot of ${host}`): Place => ({ host, bootId, network });

const near: LinkQuality = { latencyUs: 20, bandwidth: 4 };
const far: LinkQuality = { latencyUs: 300, bandwidth: 0.12 };

/** A matrix of which ranks are in which box. */
function links(boxOfRank: readonly number[], inside = near, across = far): Links {
  const matrix = (of: (quality: LinkQuality) => number) =>
    boxOfRank.map((a) => boxOfRank.map((b) => of(a === b ? inside : across)));
  return { latencyUs: matrix(({ latencyUs }) => latencyUs), bandwidth: matrix(({ bandwidth }) => bandwidth) };
}

describe('boxes', () => {
  it('are what shares a name, a running system and a network', () => {
    expect(boxesOf([place('a'), place('b'), place('a'), place('b')])).toEqual([
      [0, 2],
      [1, 3],
    ]);
    expect(boxesOf([place('a', 'x'), place('a', 'y')])).toEqual([[0], [1]]);
    expect(boxesOf([place('a', 'x', '1'), place('a', 'x', '2')])).toEqual([[0], [1]]);
  });

  it('are one where the links between them are as good as those inside', () => {
    const places = [place('a', 'x'), place('a', 'x'), place('a', 'y'), place('a', 'y')];
    const separate = topologyOf(places, links([0, 0, 1, 1]));
    expect(separate).toEqual({
      boxes: [
        [0, 1],
        [2, 3],
      ],
      inside: near,
      across: far,
    });
    const slightly: LinkQuality = { latencyUs: 25, bandwidth: 3 };
    expect(topologyOf(places, links([0, 0, 1, 1], near, slightly)).boxes).toEqual([[0, 1, 2, 3]]);
    expect(topologyOf(places, links([0, 0, 1, 1], near, { ...near, bandwidth: 1 })).boxes).toHaveLength(2);
    expect(topologyOf(places, links([0, 0, 1, 1], near, { ...near, latencyUs: 90 })).boxes).toHaveLength(2);
  });

  it('stay apart where nothing inside tells what is good', () => {
    const topology = topologyOf([place('a'), place('b')], links([0, 1]));
    expect(topology).toEqual({ boxes: [[0], [1]], inside: null, across: far });
    expect(topologyOf([place('a')], links([0]))).toEqual({ boxes: [[0]], inside: null, across: null });
  });

  it('hold every rank once, whatever was measured', () => {
    const measured = fc.record({
      latencyUs: fc.double({ min: 1, max: 1e4, noNaN: true }),
      bandwidth: fc.double({ min: 1e-3, max: 100, noNaN: true }),
    });
    fc.assert(
      fc.property(fc.array(fc.nat(3), { minLength: 1, maxLength: 9 }), measured, measured, (boxes, inside, across) => {
        const topology = topologyOf(
          boxes.map((box) => place(`host ${box}`)),
          links(boxes, inside, across),
        );
        expect(topology.boxes.flat().sort((a, b) => a - b)).toEqual(boxes.map((_, rank) => rank));
      }),
    );
  });
});

describe('axes of the mesh', () => {
  it('cross boxes where they can wait', () => {
    const topology = topologyOf([place('a'), place('a'), place('b'), place('b'), place('b')], links([0, 0, 1, 1, 1]));
    const advice = placeAxes(topology);
    expect(advice.map(({ axis, isInside, mostRanks }) => [axis, isInside, mostRanks])).toEqual([
      ['tp', true, 2],
      ['ep', true, 2],
      ['pp', false, null],
      ['dp', false, null],
    ]);
    expect(advice[0]?.reason).toContain('15 times the latency, 33 times less bandwidth');
  });

  it('all fit where there is one box', () => {
    const advice = placeAxes(topologyOf([place('a'), place('a')], links([0, 0])));
    expect(advice.every(({ isInside, mostRanks }) => isInside && mostRanks === 2)).toBe(true);
  });
});

describe('an all-reduce in two levels', () => {
  it('takes boxes of several ranks, as many in each', () => {
    expect(hierarchyOf([[0, 1, 2, 3]])).toBeNull();
    expect(hierarchyOf([[0], [1]])).toBeNull();
    expect(hierarchyOf([[0, 1], [2]])).toBeNull();
    expect(hierarchyOf([[0, 2], [1, 3]], 10)).toEqual({ boxes: [[0, 2], [1, 3]], leastBytes: 10 }); // biome-ignore format: short
  });

  it('is as much faster as fewer bytes cross', () => {
    const topology = topologyOf(
      [0, 0, 1, 1].map((i) => place(`${i}`)),
      links([0, 0, 1, 1]),
    );
    const slow: LinkQuality = { latencyUs: 1, bandwidth: 0.01 };
    const { flatMs, hierarchicalMs } = predictAllReduce({ ...topology, inside: near, across: slow }, 2 ** 26);
    // 2 · 3 / 4 of the bytes against 2 · 1 / 2
    expect(flatMs / hierarchicalMs).toBeGreaterThan(1.48);
    expect(flatMs / hierarchicalMs).toBeLessThan(1.5);
  });

  it('pays nowhere where boxes are no farther than processes', () => {
    const four = [0, 0, 1, 1].map((i) => place(`${i}`));
    const topology = topologyOf(four, links([0, 0, 1, 1]));
    expect(hierarchyPaysFrom(topology)).toBe(256);
    expect(hierarchyPaysFrom({ ...topology, across: near })).toBeNull();
    expect(hierarchyPaysFrom(topologyOf(four, links([0, 0, 0, 0])))).toBe(null);
    // A slow inside pays for large sums only where crossing is slow to begin, and for none where it is not.
    const steep = { ...topology, inside: { latencyUs: 2000, bandwidth: 4 } };
    const from = hierarchyPaysFrom(steep) as number;
    expect(from).toBeGreaterThan(256);
    expect(hierarchyPaysFrom(topologyOf([place('a'), place('b')], links([0, 1])))).toBeNull();
  });
});
