import { softmax } from '../../src/ops/softmax.js';
import type { CaseInput, OpCase } from '../support/op-case.js';

function softmaxCase(name: string, shape: number[], options: Partial<OpCase> & Pick<CaseInput, 'values'> = {}): OpCase {
  const { values = (rng) => 2 * rng.normal(), ...rest } = options;
  const D = shape.at(-1)!;
  return {
    name: `${name} [${shape}]`,
    inputs: { x: { shape, values } },
    build: ({ x }) => softmax(x!),
    reference({ x }, r) {
      const y = new Float64Array(x!.length);
      for (let at = 0; at < x!.length; at += D) {
        const row = x!.subarray(at, at + D);
        const top = row.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
        if (top === Number.NEGATIVE_INFINITY) continue;
        const e = row.map((v) => r(Math.exp(r(v - top))));
        const total = e.reduce((a, b) => r(a + b), 0);
        y.set(
          e.map((v) => r(v / total)),
          at,
        );
      }
      return [y];
    },
    ...rest,
  };
}

export const cases: OpCase[] = [
  softmaxCase('odd', [5, 7]),
  softmaxCase('a vector', [16]),
  softmaxCase('three dims', [2, 3, 35]),
  softmaxCase('one', [4, 1]),
  softmaxCase('no rows', [0, 8]),
  softmaxCase('long', [3, 1029]),
  softmaxCase('long and even', [2, 4104]),
  softmaxCase('far from zero', [3, 19], { values: (rng) => 80 + rng.normal() }),
  softmaxCase('masked', [4, 21], {
    // Row 0 wholly, every other row in part.
    values: (rng, i) => (i < 21 || i % 3 === 0 ? Number.NEGATIVE_INFINITY : rng.normal()),
    differentiable: [],
  }),
  softmaxCase('rows', [2048, 1024], { bench: true }),
];
