import { applyAdamw } from '../../src/optim/adamw.js';
import { benchCase } from '../support/bench-case.js';
import { rowsBeyondCache } from '../support/cache.js';

const config = { beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0.1 };
const tall = rowsBeyondCache(1024);

/** Tensors of a shape each, updated together. */
const sets = [
  { name: '8192 × 256', shapes: [[8192, 256]] },
  { name: '60 tensors of 256 × 256', shapes: Array.from({ length: 60 }, () => [256, 256]) },
  { name: `${tall} × 1024`, shapes: [[tall, 1024]] },
];

export const cases = sets.map(({ name, shapes }) =>
  benchCase({
    name,
    inputs: {
      lr: { shape: [1], dtype: 'fp32', mean: 1e-4, std: 0 },
      gradScale: { shape: [1], dtype: 'fp32', mean: 1, std: 0 },
      ...Object.fromEntries(shapes.map((shape, i) => [`adam.v/p${i}`, { shape, dtype: 'fp32', mean: 1, std: 0.1 }])),
    },
    build({ lr, gradScale }, graph) {
      const parameters = shapes.map((shape, i) => ({ name: `p${i}`, shape, dtype: 'fp32' as const, decay: true }));
      const grads = parameters.map(({ name, shape }) => graph.slot(`gradient/${name}`, shape, 'fp32'));
      applyAdamw(graph, parameters, grads, { lr, gradScale }, config);
      return [];
    },
    dtypes: ['fp32'],
  }),
);
