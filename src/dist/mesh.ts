// Ranks as points of the device mesh: which processes form the group of an axis.
import { HadalError } from '../core/errors.js';
import { type MeshAxis, meshAxes } from '../core/mesh.js';

/** Number of places along each axis, or a rank's place along each. */
export type MeshPoint = Readonly<Record<MeshAxis, number>>;

/** Places along each axis; axes that are left out have one. @throws HadalError HADAL_ERR_CONFIG when they do not make up `worldSize` */
export function meshSizes(worldSize: number, sizes: Partial<MeshPoint>): MeshPoint {
  const mesh = { dp: 1, tp: 1, pp: 1, ep: 1, ...sizes };
  const product = meshAxes.reduce((product, axis) => product * mesh[axis], 1);
  if (!meshAxes.every((axis) => Number.isInteger(mesh[axis]) && mesh[axis] >= 1) || product !== worldSize) {
    const given = meshAxes.map((axis) => `${axis} ${mesh[axis]}`).join(' × ');
    throw new HadalError('HADAL_ERR_CONFIG', `[mesh] expected sizes whose product is ${worldSize}, got ${given}`);
  }
  return mesh;
}

/** Where a rank lies: ranks count through the innermost axis first, so that its neighbours are one apart. */
export function meshPoint(sizes: MeshPoint, rank: number): MeshPoint {
  const point = { dp: 0, tp: 0, pp: 0, ep: 0 };
  let rest = rank;
  for (const axis of meshAxes.toReversed()) {
    point[axis] = rest % sizes[axis];
    rest = Math.floor(rest / sizes[axis]);
  }
  return point;
}

/** The rank at a point: the inverse of {@link meshPoint}. */
export function rankAt(sizes: MeshPoint, point: MeshPoint): number {
  return meshAxes.reduce((rank, axis) => rank * sizes[axis] + point[axis], 0);
}

/** The group of an axis that a rank belongs to: ranks that differ along this axis alone, in order. */
export function axisRanks(sizes: MeshPoint, axis: MeshAxis, rank: number): number[] {
  const point = meshPoint(sizes, rank);
  return Array.from({ length: sizes[axis] }, (_, place) => rankAt(sizes, { ...point, [axis]: place }));
}
