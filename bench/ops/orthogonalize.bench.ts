import { orthogonalize } from '../../src/ops/orthogonalize.js';
import { benchCase } from '../support/bench-case.js';

/** Of experts' matrices, and of an embedding's. */
const shapes = [
  [64, 1024, 4],
  [1, 32768, 4],
  [1, 32768, 16],
] as const;

export const cases = shapes.map((shape) =>
  benchCase({
    name: shape.join(' × '),
    inputs: { x: { shape, dtype: 'fp32' } },
    dtypes: ['fp32'],
    build: ({ x }) => orthogonalize(x),
  }),
);
