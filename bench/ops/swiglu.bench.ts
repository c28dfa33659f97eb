import { swiglu } from '../../src/ops/swiglu.js';
import { benchCase } from '../support/bench-case.js';
import { rowsBeyondCache } from '../support/cache.js';

const sizes = [
  [2048, 704],
  [8192, 128],
  [rowsBeyondCache(2048), 1024],
] as const;

export const cases = sizes.map(([rows, dim]) =>
  benchCase({
    name: `${rows} × 2 · ${dim}`,
    inputs: { gateUp: { shape: [rows, 2 * dim] } },
    build: ({ gateUp }) => swiglu(gateUp),
    wrt: ['gateUp'],
  }),
);
