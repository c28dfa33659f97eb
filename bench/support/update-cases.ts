// What optimizers are timed on: one tensor, many, and more than caches hold.
import type { Graph } from '../../src/graph/graph.js';
import type { Updated, UpdateRates } from '../../src/optim/update-state.js';
import { type BenchCase, benchCase } from './bench-case.js';
import { rowsBeyondCache } from './cache.js';

const tall = rowsBeyondCache(1024);

/** Tensors of a shape each, updated together. */
const sets = [
  { name: '8192 × 256', shapes: [[8192, 256]] },
  { name: '60 tensors of 256 × 256', shapes: Array.from({ length: 60 }, () => [256, 256]) },
  { name: `${tall} × 1024`, shapes: [[tall, 1024]] },
];

/**
 * Cases of an optimizer on fp32 parameters.
 *
 * @param variant - added to the shape; empty: nothing
 * @param positive - kinds of slots whose root is taken, with their number formats
 */
export function updateCases(
  variant: string,
  positive: Readonly<Record<string, 'fp32' | 'bf16'>>,
  apply: (graph: Graph, updated: readonly Updated[], rates: UpdateRates) => void,
): BenchCase[] {
  return sets.map(({ name, shapes }) =>
    benchCase({
      name: variant ? `${name}, ${variant}` : name,
      inputs: {
        lr: { shape: [1], dtype: 'fp32', mean: 1e-4, std: 0 },
        gradScale: { shape: [1], dtype: 'fp32', mean: 1, std: 0 },
        ...Object.fromEntries(
          Object.entries(positive).flatMap(([kind, dtype]) =>
            shapes.map((shape, i) => [`${kind}/p${i}`, { shape, dtype, mean: 1, std: 0.1 }]),
          ),
        ),
      },
      build({ lr, gradScale }, graph) {
        const updated = shapes.map((shape, i): Updated => {
          const parameter = { name: `p${i}`, shape, dtype: 'fp32' as const, decay: true };
          const grad = graph.slot(`gradient/p${i}`, shape, 'fp32');
          return { parameter, grad, weightDecay: 0.1, l4Decay: 0, lrRatio: 1, copy: null };
        });
        apply(graph, updated, { lr, gradScale });
        return [];
      },
      dtypes: ['fp32'],
    }),
  );
}
