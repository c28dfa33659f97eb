import { layerNorm } from '../../src/ops/layer-norm.js';
import { benchCase } from '../support/bench-case.js';
import { rowsBeyondCache } from '../support/cache.js';

const sizes = [
  [1024, 768],
  [rowsBeyondCache(1024), 1024],
] as const;

export const cases = sizes.map(([rows, dim]) =>
  benchCase({
    name: `${rows} × ${dim}`,
    inputs: {
      x: { shape: [rows, dim] },
      weight: { shape: [dim], dtype: 'fp32' },
      bias: { shape: [dim], dtype: 'fp32' },
    },
    build: ({ x, weight, bias }) => layerNorm(x, weight, bias, 1e-5),
    wrt: ['x', 'weight', 'bias'],
  }),
);
