import { cacheWrite } from '../../src/ops/cache-write.js';
import { benchCase } from '../support/bench-case.js';

export const cases = [1, 256].map((tokens) =>
  benchCase({
    name: `${tokens} tokens of 576 into 8 × 4096`,
    inputs: {
      cache: { shape: [8, 4096, 576] },
      x: { shape: [8, tokens, 576] },
      start: { shape: [8], dtype: 'int32', values: (i) => 100 * i },
    },
    build({ cache, x, start }, graph) {
      graph.update('cache', cacheWrite(cache, x, start));
      return [];
    },
  }),
);
