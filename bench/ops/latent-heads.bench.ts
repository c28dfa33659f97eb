// B batch, T tokens, N heads: D numbers of a query and key, the last R of them turned, E of a value.
import { latentHeads } from '../../src/ops/latent-heads.js';
import { benchCase } from '../support/bench-case.js';
import { rowsBeyondCache } from '../support/cache.js';

const sizes = [
  { B: 8, T: 256, N: 8, D: 48, R: 16, E: 32 },
  { B: 4, T: 256, N: 8, D: 96, R: 32, E: 64 },
  { B: rowsBeyondCache(1024) / 64, T: 64, N: 8, D: 96, R: 32, E: 64 },
];

export const cases = sizes.map(({ B, T, N, D, R, E }) =>
  benchCase({
    name: `${B} × ${T}, ${N} heads of ${D}/${E}, ${R} turned`,
    inputs: {
      q: { shape: [B, T, N, D] },
      keyValue: { shape: [B, T, N, D - R + E] },
      sharedKey: { shape: [B, T, 1, R] },
      cos: { shape: [T, R / 2], dtype: 'fp32' },
      sin: { shape: [T, R / 2], dtype: 'fp32' },
      positions: { shape: [B, T], dtype: 'int32', values: (i) => i % T },
    },
    build(values) {
      const { q, k, v } = latentHeads({ ...values, layout: 'interleaved' });
      return [q, k, v];
    },
    wrt: ['q', 'keyValue', 'sharedKey'],
  }),
);
