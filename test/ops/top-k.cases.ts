import type { Value } from '../../src/graph/graph.js';
import { reshape } from '../../src/ops/shape.js';
import { topK, topKSum } from '../../src/ops/top-k.js';
import { roundTo } from '../support/compare.js';
import type { CaseInput, OpCase } from '../support/op-case.js';

/** Places of the `kept` numbers of greatest magnitude; of equal ones the first. */
export function greatest(x: ArrayLike<number>, kept: number): number[] {
  const size = (i: number) => (Number.isNaN(x[i]) ? Number.POSITIVE_INFINITY : Math.abs(x[i] as number));
  return Array.from({ length: x.length }, (_, i) => i)
    .sort((a, b) => size(b) - size(a) || a - b)
    .slice(0, kept)
    .sort((a, b) => a - b);
}

function selection(shape: number[], kept: number, values?: CaseInput['values']): OpCase {
  const base = { shape, dtype: 'fp32' as const, ...(values && { values }) };
  return {
    name: `${kept} of [${shape}]${values ? ' with ties' : ''}`,
    inputs: { grad: base, residual: base, scale: { shape: [1], dtype: 'fp32', values: () => 0.5 } },
    differentiable: [],
    dtypes: ['fp32'],
    build({ grad, residual, scale }) {
      const made = topK(grad as Value, { value: residual as Value, scale: scale as Value }, kept);
      return [topKSum(reshape(made.message, [1, -1]), shape, kept), made.residual as Value];
    },
    reference({ grad, residual, scale }, r) {
      const f = (scale as Float64Array)[0] as number;
      const left = (grad as Float64Array).map((g, i) => r(g + r(f * ((residual as Float64Array)[i] as number))));
      const sent = new Float64Array(left.length);
      for (const i of greatest(left, kept)) {
        sent[i] = roundTo('bf16', left[i] as number);
        left[i] = (left[i] as number) - (sent[i] as number);
      }
      return [sent, left];
    },
  };
}

export const cases: OpCase[] = [
  selection([1], 1),
  selection([5, 7], 4),
  selection([33], 33),
  selection([300, 211], 633),
  selection([40_000], 777, (rng) => Math.round(3 * rng.normal())),
];
