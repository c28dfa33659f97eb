import { softmax } from '../../src/ops/softmax.js';
import { benchCase } from '../support/bench-case.js';
import { rowsBeyondCache } from '../support/cache.js';

const sizes = [
  [2048, 256],
  [rowsBeyondCache(1024), 1024],
] as const;

export const cases = sizes.map(([rows, dim]) =>
  benchCase({
    name: `${rows} × ${dim}`,
    inputs: { x: { shape: [rows, dim] } },
    build: ({ x }) => softmax(x),
    wrt: ['x'],
  }),
);
