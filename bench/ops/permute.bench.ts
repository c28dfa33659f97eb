// T tokens of D numbers, K of E experts each.
import { expertOrder, permute, unpermute } from '../../src/ops/permute.js';
import { benchCase } from '../support/bench-case.js';
import { rowsBeyondCache } from '../support/cache.js';

const sizes = [
  { T: 2048, K: 4, E: 16, D: 256 },
  { T: 1024, K: 4, E: 32, D: 512 },
  { T: rowsBeyondCache(1024) / 4, K: 4, E: 32, D: 1024 },
];

export const cases = sizes.flatMap(({ T, K, E, D }) => {
  const name = `${T} × ${D}, ${K} of ${E} experts`;
  const experts = { shape: [T, K], dtype: 'int32', values: (i: number) => (i * 7 + (i >> 4)) % E } as const;
  const weights = { shape: [T, K], dtype: 'fp32' } as const;
  return [
    benchCase({
      name,
      inputs: { x: { shape: [T, D] }, experts, weights },
      build(values) {
        const order = expertOrder(values.experts, { experts: E });
        return unpermute(permute(values.x, order), order, values.weights);
      },
      wrt: ['x', 'weights'],
    }),
    benchCase({
      name: `${name}, weights learn alone`,
      inputs: { y: { shape: [T * K, D] }, experts, weights },
      build: (values) => unpermute(values.y, expertOrder(values.experts, { experts: E }), values.weights),
      wrt: ['weights'],
    }),
  ];
});
