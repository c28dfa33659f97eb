import type { Value } from '../../src/graph/graph.js';
import { orthogonalize } from '../../src/ops/orthogonalize.js';
import type { OpCase } from '../support/op-case.js';

function orthonormal(shape: [number, number, number]): OpCase {
  const [batch, rows, columns] = shape;
  return {
    name: `[${shape}]`,
    inputs: { x: { shape, dtype: 'fp32' } },
    differentiable: [],
    dtypes: ['fp32'],
    build: ({ x }) => orthogonalize(x as Value),
    // Modified Gram–Schmidt; of random columns, which are far from parallel, once is enough.
    reference({ x }, r) {
      const y = Float64Array.from(x as Float64Array);
      for (let b = 0; b < batch; b++) {
        const at = (row: number, column: number) => (b * rows + row) * columns + column;
        const dot = (i: number, j: number) => {
          let total = 0;
          for (let row = 0; row < rows; row++) total += (y[at(row, i)] as number) * (y[at(row, j)] as number);
          return total;
        };
        for (let j = 0; j < columns; j++) {
          for (let i = 0; i < j; i++) {
            const share = dot(i, j);
            for (let row = 0; row < rows; row++)
              y[at(row, j)] = r((y[at(row, j)] as number) - share * (y[at(row, i)] as number));
          }
          const norm = Math.sqrt(dot(j, j));
          for (let row = 0; row < rows; row++) y[at(row, j)] = r((y[at(row, j)] as number) / norm);
        }
      }
      return [y];
    },
  };
}

export const cases: OpCase[] = [
  orthonormal([1, 5, 2]),
  orthonormal([3, 64, 4]),
  orthonormal([5, 33, 1]),
  orthonormal([1, 1003, 8]),
  orthonormal([37, 6, 3]),
];
