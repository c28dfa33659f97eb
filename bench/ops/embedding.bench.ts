import { embedding } from '../../src/ops/embedding.js';
import { benchCase } from '../support/bench-case.js';
import { rowsBeyondCache } from '../support/cache.js';

const sizes = [
  { tokens: 2048, vocabulary: 8192, dim: 256 },
  { tokens: 1024, vocabulary: 50257, dim: 768 },
  { tokens: rowsBeyondCache(1024), vocabulary: 8192, dim: 1024 },
];

export const cases = sizes.map(({ tokens, vocabulary, dim }) =>
  benchCase({
    name: `${tokens} of ${vocabulary} × ${dim}`,
    inputs: {
      table: { shape: [vocabulary, dim] },
      ids: { shape: [tokens], dtype: 'int32', values: (i) => (i * 7919) % vocabulary },
    },
    build: ({ table, ids }) => embedding(table, ids),
    wrt: ['table'],
  }),
);
