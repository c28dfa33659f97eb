import type { Value } from '../../src/graph/graph.js';
import { max, mean, sum, sumOfSquares } from '../../src/ops/reduce.js';
import type { CaseInput, OpCase } from '../support/op-case.js';

type Fold = (total: number, x: number, r: (x: number) => number) => number;

/** Folds the elements of x that differ only in `axes`, in order. */
function fold(x: Float64Array, shape: number[], axes: number[], start: number, f: Fold, r: (x: number) => number) {
  const kept = shape.map((dim, i) => (axes.includes(i) ? 1 : dim));
  const out = new Float64Array(kept.reduce((a, b) => a * b, 1)).fill(start);
  for (const [i, value] of x.entries()) {
    let [left, at, stride] = [i, 0, 1];
    for (let d = shape.length - 1; d >= 0; d--) {
      const index = left % (shape[d] as number);
      left = Math.floor(left / (shape[d] as number));
      if (axes.includes(d)) continue;
      at += index * stride;
      stride *= shape[d] as number;
    }
    out[at] = f(out[at] as number, value, r);
  }
  return out;
}

const count = (shape: number[], axes: number[]) => axes.reduce((n, axis) => n * (shape[axis] as number), 1);

interface Reduction {
  op: (x: Value, axes: readonly number[], keepDims?: boolean) => Value;
  start: number;
  f: Fold;
  values?: CaseInput['values'];
}
const reductions: Record<string, Reduction> = {
  sum: { op: sum, start: 0, f: (total, x, r) => r(total + x) },
  mean: { op: mean, start: 0, f: (total, x, r) => r(total + x) },
  sumOfSquares: { op: sumOfSquares, start: 0, f: (total, x, r) => r(total + r(x * x)) },
  // Far apart: finite differences change no winner.
  max: {
    op: max,
    start: Number.NEGATIVE_INFINITY,
    f: (total, x) => Math.max(total, x),
    values: (_, i) => ((i * 37) % 128) / 8 - 8,
  },
};

function reduceCase(
  name: keyof typeof reductions,
  shape: number[],
  axes: number[],
  rest: Partial<OpCase> = {},
): OpCase {
  const { op, start, f, values } = reductions[name] as Reduction;
  return {
    name: `${name} [${shape}] over [${axes}]`,
    inputs: { x: values ? { shape, values } : { shape } },
    build: ({ x }) => op(x as Value, axes),
    reference({ x }, r) {
      const out = fold(x as Float64Array, shape, axes, start, f, r);
      return [name === 'mean' ? out.map((total) => r(total / count(shape, axes))) : out];
    },
    ...rest,
  };
}

const places: [shape: number[], axes: number[]][] = [
  [[7], [0]],
  [[5, 19], [0]],
  [[5, 19], [1]],
  [[3, 5, 7], [1]],
  [
    [3, 5, 7],
    [0, 1],
  ],
  [
    [3, 5, 7],
    [0, 2],
  ],
  [
    [2, 3, 2, 3],
    [3, 1],
  ],
  [[1, 4], [0]],
];

export const cases: OpCase[] = [
  ...Object.keys(reductions).flatMap((name) => places.map(([shape, axes]) => reduceCase(name, shape, axes))),
  // Longer than a block of 8192 numbers.
  reduceCase('sum', [3, 20_000], [1], { differentiable: [] }),
  reduceCase('sumOfSquares', [20_001], [0], { differentiable: [] }),
  reduceCase('sum', [2_500, 19], [0], { differentiable: [] }),
  reduceCase('sum', [30, 2_100], [0], { differentiable: [] }), // columns for the widest stretches, and a rest
  reduceCase('sum', [3, 300, 264], [1], { differentiable: [] }), // several chunks of columns
  reduceCase('sumOfSquares', [5, 1500], [1], { differentiable: [] }),
  reduceCase('max', [2, 20_000], [1], { differentiable: [] }),
  reduceCase('sum', [0, 4], [0]),
  reduceCase('sum', [4, 0], [1]),
  {
    ...reduceCase('sum', [3, 4], [1]),
    name: 'sum keeping dims',
    build: ({ x }) => sum(x as Value, [1], true),
  },
  reduceCase('sum', [4096, 4096], [0], { bench: true }),
  reduceCase('sum', [4096, 4096], [1], { bench: true }),
];
