import { squaredNorm } from '../../src/ops/squared-norm.js';
import { benchCase } from '../support/bench-case.js';
import { rowsBeyondCache } from '../support/cache.js';

const tall = rowsBeyondCache(1024);

/** Tensors of a shape each, all in one sum. */
const sets = [
  { name: '60 tensors of 256 × 256', shapes: Array.from({ length: 60 }, () => [256, 256]) },
  { name: `${tall} × 1024`, shapes: [[tall, 1024]] },
];

export const cases = sets.map(({ name, shapes }) =>
  benchCase({
    name,
    inputs: Object.fromEntries(shapes.map((shape, i) => [`x${i}`, { shape }])),
    build: (values) => squaredNorm(Object.values(values)),
  }),
);
