import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { meshAxes } from '../../src/core/mesh.js';
import { axisRanks, meshPoint, meshSizes, rankAt } from '../../src/dist/mesh.js';
import { expectHadalError } from '../support/op-case.js';

const places = fc.integer({ min: 1, max: 4 });
const sizes = fc.record({ dp: places, tp: places, pp: places, ep: places });
const mesh = sizes.map((sizes) => ({ sizes, ranks: meshAxes.reduce((all, axis) => all * sizes[axis], 1) }));

describe('a mesh', () => {
  it('has a point for each rank and a rank for each point', () => {
    fc.assert(
      fc.property(mesh, ({ sizes, ranks }) => {
        const points = Array.from({ length: ranks }, (_, rank) => meshPoint(sizes, rank));
        expect(points.map((point) => rankAt(sizes, point))).toEqual(points.map((_, rank) => rank));
        for (const point of points) {
          for (const axis of meshAxes) expect(point[axis]).toBeLessThan(sizes[axis]);
        }
      }),
    );
  });

  it('is divided by the groups of an axis, in each of which a rank is where its place on the axis says', () => {
    fc.assert(
      fc.property(mesh, fc.constantFrom(...meshAxes), ({ sizes, ranks }, axis) => {
        const seen = new Map<number, string>();
        for (let rank = 0; rank < ranks; rank++) {
          const group = axisRanks(sizes, axis, rank);
          expect(group).toHaveLength(sizes[axis]);
          expect(group[meshPoint(sizes, rank)[axis]]).toBe(rank);
          for (const member of group) expect(seen.get(member) ?? `${group}`).toBe(`${group}`);
          for (const member of group) seen.set(member, `${group}`);
        }
        expect(seen.size).toBe(ranks);
      }),
    );
  });

  it('has neighbours on the innermost axis, and apart on the outermost', () => {
    const sizes = meshSizes(8, { dp: 2, tp: 4 });
    expect(axisRanks(sizes, 'tp', 6)).toEqual([4, 5, 6, 7]);
    expect(axisRanks(sizes, 'dp', 6)).toEqual([2, 6]);
    expect(axisRanks(sizes, 'ep', 6)).toEqual([6]);
  });

  it('is refused where it does not make up all ranks', () => {
    for (const wrong of [{ dp: 2 }, { dp: 8, tp: 0 }, { dp: 0.5, tp: 8 }, { dp: -2, tp: -2 }]) {
      expectHadalError(
        () => meshSizes(4, wrong),
        'HADAL_ERR_CONFIG',
        /\[mesh\] expected sizes whose product is 4, got dp/,
      );
    }
  });
});
