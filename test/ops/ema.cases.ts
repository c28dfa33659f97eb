import { ema } from '../../src/ops/ema.js';
import type { OpCase } from '../support/op-case.js';

function emaCase(shapes: number[][], rest: number): OpCase {
  return {
    name: `${shapes.map((shape) => `[${shape}]`).join(' ')} ${rest} new`,
    inputs: {
      ...Object.fromEntries(
        shapes.flatMap((shape, i) => [
          [`x${i}`, { shape }],
          [`mean${i}`, { shape, dtype: 'fp32' }],
        ]),
      ),
      rest: { shape: [1], dtype: 'fp32', values: () => Math.fround(rest) },
    },
    build: ({ rest, ...values }) =>
      ema(
        shapes.map((_, i) => ({ x: values[`x${i}`]!, mean: values[`mean${i}`]! })),
        rest!,
      ),
    reference: ({ rest, ...values }, r) =>
      shapes.map((_, i) =>
        values[`mean${i}`]!.map((mean, j) => r(mean + r(r(values[`x${i}`]![j]! - mean) * rest![0]!))),
      ),
    differentiable: [],
  };
}

export const cases: OpCase[] = [
  emaCase([[5, 7]], 0.1),
  emaCase([[1], [0], [64], [4097], [9001]], 0.001),
  emaCase(
    Array.from({ length: 19 }, (_, i) => [i + 1]),
    0.5,
  ),
];
