import { dequantizeBlocks, quantizeBlocks, sumBlocks } from '../../src/ops/quantize-blocks.js';
import { reshape } from '../../src/ops/shape.js';
import { benchCase } from '../support/bench-case.js';
import { rowsBeyondCache } from '../support/cache.js';

/** A gradient's way through both roundings, on one rank. */
export const cases = [2048, rowsBeyondCache(1024)].map((rows) =>
  benchCase({
    name: `${rows} × 1024`,
    inputs: {
      grad: { shape: [rows, 1024], dtype: 'fp32' },
      residual: { shape: [rows, 1024], dtype: 'fp32' },
      scale: { shape: [1], dtype: 'fp32' },
    },
    dtypes: ['fp32'],
    build({ grad, residual: value, scale }) {
      const residual = { value, scale };
      const sent = quantizeBlocks(grad, residual, 1);
      const made = sumBlocks(sent, { sent, grad, residual }, { ranks: 1, rank: 0, count: grad.size });
      return [dequantizeBlocks(reshape(made.message, [1, -1]), grad.shape, 1), made.residual ?? grad];
    },
  }),
);
