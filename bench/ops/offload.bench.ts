import { add } from '../../src/ops/elementwise.js';
import { benchCase } from '../support/bench-case.js';

/** A slot in a file that is read, written, and released. */
export const cases = [16, 256].map((mebibytes) =>
  benchCase({
    name: `${mebibytes} MiB`,
    inputs: { x: { shape: [mebibytes * 2 ** 18], dtype: 'fp32', offloaded: true } },
    build({ x }, graph) {
      graph.update('x', add(x, 1));
      return [];
    },
    dtypes: ['fp32'],
  }),
);
