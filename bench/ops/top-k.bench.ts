import { reshape } from '../../src/ops/shape.js';
import { topK, topKSum } from '../../src/ops/top-k.js';
import { benchCase } from '../support/bench-case.js';
import { rowsBeyondCache } from '../support/cache.js';

/** One number of a hundred. */
export const cases = [2048, rowsBeyondCache(1024)].map((rows) =>
  benchCase({
    name: `1 % of ${rows} × 1024`,
    inputs: {
      grad: { shape: [rows, 1024], dtype: 'fp32' },
      residual: { shape: [rows, 1024], dtype: 'fp32' },
      scale: { shape: [1], dtype: 'fp32' },
    },
    dtypes: ['fp32'],
    build({ grad, residual: value, scale }) {
      const kept = Math.floor(grad.size / 100);
      const { message, residual } = topK(grad, { value, scale }, kept);
      return [topKSum(reshape(message, [1, -1]), grad.shape, kept), residual ?? grad];
    },
  }),
);
