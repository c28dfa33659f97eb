// T tokens of D numbers, K of E experts each.
import { expertOrder, permute, unpermute } from '../../src/ops/permute.js';
import { benchCase } from '../support/bench-case.js';
import { rowsBeyondCache } from '../support/cache.js';

const sizes = [
  { T: 2048, K: 4, E: 16, D: 256 },
  { T: 1024, K: 4, E: 32, D: 512 },
  { T: rowsBeyondCache(1024) / 4, K: 4, E: 32, D: 1024 },
];

export const cases = sizes.map(({ T, K, E, D }) =>
  benchCase({
    name: `${T} × ${D}, ${K} of ${E} experts`,
    inputs: {
      x: { shape: [T, D] },
      experts: { shape: [T, K], dtype: 'int32', values: (i) => (i * 7 + (i >> 4)) % E },
      weights: { shape: [T, K], dtype: 'fp32' },
    },
    build({ x, experts, weights }) {
      const order = expertOrder(experts, { experts: E });
      return unpermute(permute(x, order), order, weights);
    },
    wrt: ['x', 'weights'],
  }),
);
