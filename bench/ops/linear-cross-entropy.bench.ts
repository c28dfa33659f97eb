// N rows, D features, V words. The forward pass computes the gradients, too.
import { linearCrossEntropy } from '../../src/ops/linear-cross-entropy.js';
import { benchCase } from '../support/bench-case.js';

const sizes = [
  { N: 2048, D: 256, V: 8192 },
  { N: 1024, D: 512, V: 16384 },
  { N: 1024, D: 768, V: 50257 },
];

export const cases = sizes.map(({ N, D, V }) =>
  benchCase({
    name: `${N} × ${D}, ${V} words`,
    inputs: {
      hidden: { shape: [N, D] },
      weight: { shape: [V, D], std: 0.05 },
      labels: { shape: [N], dtype: 'int32', values: (i) => (i * 131) % V },
      scale: { shape: [1], dtype: 'fp32', mean: 1 / N, std: 0 },
    },
    build: ({ hidden, weight, labels, scale }) => linearCrossEntropy(hidden, weight, labels, scale).loss,
    wrt: ['hidden', 'weight'],
  }),
);
