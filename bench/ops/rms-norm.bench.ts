import { addRmsNorm, rmsNorm } from '../../src/ops/rms-norm.js';
import { benchCase } from '../support/bench-case.js';
import { rowsBeyondCache } from '../support/cache.js';

const sizes = [
  [2048, 256],
  [1024, 512],
  [rowsBeyondCache(1024), 1024],
] as const;

export const cases = sizes.flatMap(([rows, dim]) => {
  const x = { shape: [rows, dim] };
  const weight = { shape: [dim], dtype: 'fp32' } as const;
  return [
    benchCase({
      name: `${rows} × ${dim}`,
      inputs: { x, weight },
      build: (values) => rmsNorm(values.x, values.weight, 1e-6),
      wrt: ['x', 'weight'],
    }),
    benchCase({
      name: `${rows} × ${dim}, of a sum`,
      inputs: { x, residual: x, weight },
      build(values) {
        const [y, , sum] = addRmsNorm(values.x, values.residual, values.weight, 1e-6);
        return [y, sum];
      },
      wrt: ['x', 'weight'],
    }),
  ];
});
