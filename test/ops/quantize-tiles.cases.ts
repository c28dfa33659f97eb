import { quantizeTiles, type TileOptions } from '../../src/ops/quantize-tiles.js';
import { toE4m3 } from '../support/e4m3.js';
import type { OpCase, Reference } from '../support/op-case.js';

type Tiles = Pick<TileOptions, 'tile' | 'scale'>;

/** Rows [begin, end) of a matrix, tile by tile. Scales and quotients are fp32 by definition. */
function quantizeRows(x: Float64Array, begin: number, end: number, columns: number, { tile, scale }: Tiles): void {
  const [height, width] = tile;
  for (let top = begin; top < end; top += height) {
    for (let left = 0; left < columns; left += width) {
      const places: number[] = [];
      for (let i = top; i < Math.min(end, top + height); i++)
        for (let j = left; j < Math.min(columns, left + width); j++) places.push(i * columns + j);
      const largest = places.reduce((most, at) => Math.max(most, Math.abs(x[at] as number)), 0);
      const exact = Math.max(2 ** -126, Math.fround(largest / 448));
      const s = scale === 'float' ? exact : 2 ** Math.ceil(Math.log2(exact));
      for (const at of places) x[at] = s * toE4m3(Math.fround((x[at] as number) / s));
    }
  }
}

function tilesCase(shape: number[], tiles: Tiles, offsets?: readonly number[]): OpCase {
  const [rows, columns] = shape.slice(-2) as [number, number];
  const reference: Reference = ({ x }) => {
    const y = Float64Array.from(x as Float64Array);
    const begins = offsets ?? Array.from({ length: y.length / (rows * columns) + 1 }, (_, i) => i * rows);
    for (const [e, end] of begins.slice(1).entries()) quantizeRows(y, begins[e] as number, end, columns, tiles);
    return [y];
  };
  const groups = offsets && {
    offsets: {
      shape: [offsets.length],
      dtype: 'int32' as const,
      values: (_: unknown, i: number) => offsets[i] as number,
    },
  };
  return {
    name: `[${shape}] in ${tiles.tile.join(' × ')}, ${tiles.scale}${offsets ? ', groups' : ''}`,
    inputs: {
      // Many magnitudes: some of a tile are below its least fp8 number.
      x: { shape, values: (rng) => rng.normal() * 2 ** (8 * rng.uniform() - 6) },
      ...groups,
    },
    build: ({ x, offsets: given }) => quantizeTiles(x!, tiles, given ?? null),
    reference,
    differentiable: [],
  };
}

export const cases: OpCase[] = (['float', 'power-of-two'] as const).flatMap((scale) => [
  tilesCase([3, 300], { tile: [1, 128], scale }),
  tilesCase([150, 37], { tile: [128, 1], scale }),
  tilesCase([2, 140, 133], { tile: [128, 128], scale }),
  tilesCase([5, 7], { tile: [2, 3], scale }),
  tilesCase([290, 20], { tile: [128, 1], scale }, [0, 130, 130, 131, 290]),
]);
