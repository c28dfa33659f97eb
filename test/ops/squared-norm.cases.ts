import type { Value } from '../../src/graph/graph.js';
import { squaredNorm } from '../../src/ops/squared-norm.js';
import type { CaseInput, OpCase } from '../support/op-case.js';

/** Tensors of fp32 and of the dtype under test in turns. */
function normCase(shapes: number[][], extra: Partial<OpCase> = {}): OpCase {
  const inputs = shapes.map((shape, i): [string, CaseInput] => [
    `x${i}`,
    { shape, dtype: i % 2 === 0 ? 'float' : 'fp32' },
  ]);
  return {
    name: shapes.map((shape) => `[${shape}]`).join(' '),
    inputs: Object.fromEntries(inputs),
    build: (values) => squaredNorm(inputs.map(([name]) => values[name] as Value)),
    reference(values, r) {
      const all = inputs.flatMap(([name]) => [...(values[name] as Float64Array)]);
      return [[all.reduce((total, x) => r(total + r(x * x)), 0)]];
    },
    ...extra,
  };
}

export const cases: OpCase[] = [
  normCase([[5, 7]]),
  normCase([[1], [3, 4], [2, 2, 17], [0], [33]]),
  // Blocks within tensors, and shares of two threads that begin and end there.
  normCase([[40_001], [5], [8192], [20_000], [8193]], { differentiable: [] }),
  // More tensors than one call takes.
  normCase(
    Array.from({ length: 131 }, (_, i) => [1 + (i % 5)]),
    { differentiable: ['x0', 'x130'] },
  ),
  normCase([[4096, 4096]], { bench: true }),
];
