// Gradients of matrices as products of two of low rank: one step of subspace iteration, begun where the last update ended.
// PowerSGD: Vogels et al. 2019, arXiv:1905.13727, algorithm 1, with residuals as PyTorch's hook has them.
//   P = Σ M_r·Q, made orthonormal;  Q = Σ M_rᵀ·P;  the sum is P·Qᵀ, and each of N ranks keeps M_r − P·Qᵀ / N
// M_r: gradient and residual of rank r. Residuals of all ranks together are Σ M_r − P·Qᵀ.
import { type Shape, sizeOf } from '../../core/shape.js';
import type { Graph, Value } from '../../graph/graph.js';
import { allReduce } from '../../ops/collectives.js';
import { multiply, subtract, where } from '../../ops/elementwise.js';
import { matmul } from '../../ops/matmul.js';
import { orthogonalize } from '../../ops/orthogonalize.js';
import { reshape } from '../../ops/shape.js';
import { dataRanks } from '../dist-config.js';
import type { Method } from './method.js';
import { keepResidual, residualOf, residualScale, withResidual } from './residuals.js';

/** Slots of Q, by parameter; the same on all ranks. */
export const powerSgdPrefix = 'powersgd.q/';

/** The matrices of a gradient: the last two dims, as many as the others have room for (stacked experts). */
function matricesOf(shape: Shape): [count: number, rows: number, columns: number] {
  return [sizeOf(shape.slice(0, -2)), ...(shape.slice(-2) as [number, number])];
}

/** rank · (rows + columns) numbers for each matrix. */
export const powerSgd: Method = {
  // As PyTorch's hook: at most half of the numbers.
  suits(shape, { compression }) {
    const [, rows, columns] = matricesOf(shape);
    return 2 * compression.rank * (rows + columns) <= rows * columns;
  },
  sums(graph, gradients, dist) {
    const { worldSize, compression } = dist;
    const sum = (values: readonly Value[]) => allReduce(values, { ...dataRanks(dist), op: 'sum', wire: 'fp32' });
    const matrices = gradients.map(({ name, value }) => {
      const whole = compression.errorFeedback ? withResidual(value, residualOf(graph, name, value.shape)) : value;
      return reshape(whole, matricesOf(value.shape));
    });
    const left = sum(
      matrices.map((m, i) =>
        matmul(m, lastQ(graph, (gradients[i] as { name: string }).name, m.shape, compression.rank)),
      ),
    );
    const bases = left.map(orthogonalize);
    const right = sum(matrices.map((m, i) => matmul(m, bases[i] as Value, { transposeA: true })));
    return gradients.map(({ name, value }, i) => {
      const [m, base, q] = [matrices[i], bases[i], right[i]] as [Value, Value, Value];
      graph.update(powerSgdPrefix + name, q);
      const product = matmul(base, q, { transposeB: true });
      if (compression.errorFeedback) {
        keepResidual(graph, name, reshape(subtract(m, multiply(product, 1 / worldSize)), value.shape));
      }
      return reshape(product, value.shape);
    });
  },
};

/** What the last update's Q spans; random at the beginning, and after an update that was skipped. */
function lastQ(graph: Graph, name: string, [count, , columns]: Shape, rank: number): Value {
  const q = graph.slot(powerSgdPrefix + name, [count as number, columns as number, rank], 'fp32');
  return orthogonalize(where(residualScale(graph), q, 0));
}
