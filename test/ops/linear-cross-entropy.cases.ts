import type { Value } from '../../src/graph/graph.js';
import { linearCrossEntropy } from '../../src/ops/linear-cross-entropy.js';
import type { OpCase } from '../support/op-case.js';

interface Options {
  labelSmoothing?: number;
  zLoss?: number;
  ignoreIndex?: number;
  chunkRows?: number;
}

/** The loss alone takes its gradients from the kernel; the rows' own losses beside it take them from the lowered form. */
type Results = 'loss' | 'loss and losses';

function lossCase(
  name: string,
  [rows, vocab, dim]: readonly [number, number, number],
  options: Options,
  results: Results = 'loss',
  extra: Partial<OpCase> = {},
): OpCase {
  const { labelSmoothing = 0, zLoss = 0, ignoreIndex = -100 } = options;
  return {
    name: `${name}: N${rows} V${vocab} D${dim}`,
    inputs: {
      hidden: { shape: [rows, dim] },
      weight: { shape: [vocab, dim] },
      labels: { shape: [rows], dtype: 'int32', values: (_, i) => (i % 4 === 1 ? ignoreIndex : (i * 7) % vocab) },
      scale: { shape: [1], dtype: 'fp32', values: () => 0.3 },
    },
    build({ hidden, weight, labels, scale }) {
      const { loss, losses } = linearCrossEntropy(
        hidden as Value,
        weight as Value,
        labels as Value,
        scale as Value,
        options,
      );
      return results === 'loss' ? loss : [loss, losses];
    },
    reference({ hidden, weight, labels, scale }, r) {
      const losses = Array.from({ length: rows }, (_, row) => {
        const label = (labels as Float64Array)[row] as number;
        if (label === ignoreIndex) return 0;
        const z = Array.from({ length: vocab }, (_, v) => {
          let total = 0;
          for (let d = 0; d < dim; d++) {
            const term =
              ((hidden as Float64Array)[row * dim + d] as number) * ((weight as Float64Array)[v * dim + d] as number);
            total = r(total + r(term));
          }
          return total;
        });
        const shift = Math.max(...z);
        const lse = r(r(Math.log(z.reduce((total, x) => r(total + r(Math.exp(r(x - shift)))), 0))) + shift);
        const average = r(z.reduce((total, x) => r(total + x), 0) / vocab);
        const target = r(r((1 - labelSmoothing) * (z[label] as number)) + r(labelSmoothing * average));
        return r(r(lse - target) + r(zLoss * r(lse * lse)));
      });
      const total = losses.reduce((sum, loss) => r(sum + loss), 0);
      const loss = [r(total * ((scale as Float64Array)[0] as number))];
      return results === 'loss' ? [loss] : [loss, losses];
    },
    ...extra,
  };
}

export const cases: OpCase[] = [
  lossCase('plain', [6, 11, 5], {}),
  lossCase('label smoothing', [6, 11, 5], { labelSmoothing: 0.1 }),
  lossCase('z-loss', [6, 11, 5], { zLoss: 0.05 }),
  lossCase('both, another ignored label', [5, 17, 4], { labelSmoothing: 0.2, zLoss: 0.01, ignoreIndex: 3 }),
  lossCase('losses of rows', [6, 11, 5], { labelSmoothing: 0.1, zLoss: 0.05 }, 'loss and losses'),
  lossCase('chunks of a given size', [10, 11, 5], { chunkRows: 4, labelSmoothing: 0.1 }),
  lossCase('chunks that begin at odd addresses', [7, 11, 5], { chunkRows: 3 }),
  lossCase('a chunk that holds all rows', [6, 11, 5], { chunkRows: 100 }),
  lossCase('one row', [1, 9, 3], {}),
  lossCase('a vocabulary of one', [3, 1, 4], { zLoss: 0.1 }),
  // 512 rows are a chunk, 2048 columns a block.
  lossCase('more rows than a chunk', [1030, 5, 3], { labelSmoothing: 0.1 }),
  lossCase('more columns than a block', [3, 4107, 2], { labelSmoothing: 0.1, zLoss: 0.02 }),
  lossCase('more of both', [1029, 2051, 2], { labelSmoothing: 0.1 }, 'loss and losses', { differentiable: [] }),
];
