import { concat, slice } from '../../src/ops/shape.js';
import { benchCase } from '../support/bench-case.js';
import { rowsBeyondCache } from '../support/cache.js';

export const cases = [2048, rowsBeyondCache(1024)].flatMap((rows) => {
  const half = { shape: [rows, 512] };
  return [
    benchCase({
      name: `${rows} × (512 + 512)`,
      inputs: { a: half, b: half },
      build: ({ a, b }) => concat([a, b], 1),
    }),
    benchCase({
      name: `${rows} × 512 of 1024`,
      inputs: { x: { shape: [rows, 1024] } },
      build: ({ x }) => slice(x, 1, 512, 1024),
      wrt: ['x'],
    }),
  ];
});
