// T tokens, E experts, K of them each token's.
import { expertCounts, router } from '../../src/ops/router.js';
import { benchCase } from '../support/bench-case.js';

const sizes = [
  { T: 2048, E: 16, K: 4, groups: 1, topGroups: 1 },
  { T: 4096, E: 256, K: 8, groups: 8, topGroups: 4 },
];

const choosing = sizes.map(({ T, E, K, groups, topGroups }) =>
  benchCase({
    name: `${T} tokens, ${K} of ${E} experts`,
    inputs: { logits: { shape: [T, E] }, bias: { shape: [E], std: 0.01 } },
    build({ logits, bias }) {
      const options = { topK: K, groups, topGroups, scoring: 'sigmoid', groupScore: 'top2sum' } as const;
      const { weights, scores } = router(logits, bias, null, { ...options, normalize: true, scalingFactor: 2.5 });
      return [weights, scores];
    },
    wrt: ['logits'],
    dtypes: ['fp32'],
  }),
);

const counting = sizes.map(({ T, E, K }) =>
  benchCase({
    name: `${T} tokens, ${K} of ${E} experts`,
    inputs: { experts: { shape: [T, K], dtype: 'int32', values: (i) => (i * 7) % E } },
    build: ({ experts }) => expertCounts(experts, { groups: 1, experts: E }),
    dtypes: ['fp32'],
  }),
);

export const cases = [...choosing, ...counting];
