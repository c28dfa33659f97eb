import { addLayerNorm, layerNorm } from '../../src/ops/layer-norm.js';
import { benchCase } from '../support/bench-case.js';
import { rowsBeyondCache } from '../support/cache.js';

const sizes = [
  [1024, 768],
  [rowsBeyondCache(1024), 1024],
] as const;

export const cases = sizes.flatMap(([rows, dim]) => {
  const x = { shape: [rows, dim] };
  const weight = { shape: [dim], dtype: 'fp32' } as const;
  return [
    benchCase({
      name: `${rows} × ${dim}`,
      inputs: { x, weight, bias: weight },
      build: (values) => layerNorm(values.x, values.weight, values.bias, 1e-5),
      wrt: ['x', 'weight', 'bias'],
    }),
    benchCase({
      name: `${rows} × ${dim}, of a sum`,
      inputs: { x, residual: x, weight, bias: weight },
      build(values) {
        const [y, , , sum] = addLayerNorm(values.x, values.residual, values.weight, values.bias, 1e-5);
        return [y, sum];
      },
      wrt: ['x', 'weight', 'bias'],
    }),
  ];
});
