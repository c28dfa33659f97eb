import type { Value } from '../../src/graph/graph.js';
import { statistics } from '../../src/ops/statistics.js';
import type { OpCase } from '../support/op-case.js';
import type { Rng } from '../support/rng.js';

function statisticsCase(shape: number[], name: string, values?: (rng: Rng, index: number) => number): OpCase {
  return {
    name: `[${shape}] ${name}`,
    inputs: { x: { shape, ...(values && { values }) } },
    build: ({ x }) => statistics(x as Value),
    reference({ x }) {
      const finite = [...(x as Float64Array)].filter(Number.isFinite);
      return [
        [
          finite.reduce((a, b) => Math.min(a, b), Number.POSITIVE_INFINITY),
          finite.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY),
          finite.filter((value) => value === 0).length,
          (x as Float64Array).length - finite.length,
          (x as Float64Array).length,
        ],
      ];
    },
    differentiable: [],
    tolerance: 0,
  };
}

const odd = [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 0, -0];

export const cases: OpCase[] = [
  statisticsCase([5, 7], 'random'),
  statisticsCase([1], 'one number'),
  statisticsCase([0], 'nothing'),
  statisticsCase([3], 'nothing finite', (_, i) => odd[i] as number),
  statisticsCase([37], 'of one sign', (rng) => -1 - rng.uniform()),
  statisticsCase([3, 41], 'zeros and what is not finite', (rng, i) =>
    i % 3 === 0 ? (odd[i % 5] as number) : rng.normal(),
  ),
  // Several blocks a thread, and a last one that is not whole.
  statisticsCase([131_101], 'several blocks', (rng, i) => (i % 1000 === 7 ? (odd[i % 5] as number) : rng.normal())),
];
