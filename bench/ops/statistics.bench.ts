import { statistics } from '../../src/ops/statistics.js';
import { benchCase } from '../support/bench-case.js';
import { rowsBeyondCache } from '../support/cache.js';

const rows = [4096, rowsBeyondCache(1024)];

export const cases = rows.map((count) =>
  benchCase({
    name: `${count} × 1024`,
    inputs: { x: { shape: [count, 1024] } },
    build: ({ x }) => statistics(x),
  }),
);
