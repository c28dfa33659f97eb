import { quantizeTiles } from '../../src/ops/quantize-tiles.js';
import { benchCase } from '../support/bench-case.js';
import { rowsBeyondCache } from '../support/cache.js';

const tall = rowsBeyondCache(1024);

/** Tiles of activations, of weights, and of activations whose rows are the inner dim of a product. */
const tiles = [
  [1, 128],
  [128, 128],
  [128, 1],
] as const;

export const cases = tiles.flatMap((tile) =>
  [2048, tall].map((rows) =>
    benchCase({
      name: `${rows} × 1024 in ${tile.join(' × ')}`,
      inputs: { x: { shape: [rows, 1024] } },
      build: ({ x }) => quantizeTiles(x, { tile, scale: 'float' }),
    }),
  ),
);
