import { max, mean, sum, sumOfSquares } from '../../src/ops/reduce.js';
import { benchCase } from '../support/bench-case.js';
import { rowsBeyondCache } from '../support/cache.js';

export const cases = [2048, rowsBeyondCache(1024)].flatMap((rows) => {
  const inputs = { x: { shape: [rows, 1024] } };
  const name = `${rows} × 1024`;
  return [
    benchCase({ name: `${name}, mean of rows`, inputs, build: ({ x }) => mean(x, [1]) }),
    benchCase({ name: `${name}, max of rows`, inputs, build: ({ x }) => max(x, [1]) }),
    benchCase({ name: `${name}, sum of columns`, inputs, build: ({ x }) => sum(x, [0]) }),
    benchCase({ name: `${name}, sum of all squares`, inputs, build: ({ x }) => sumOfSquares(x, [0, 1]) }),
  ];
});
