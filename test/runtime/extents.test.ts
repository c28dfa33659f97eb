// Rows beyond a bounded extent are nobody's: whatever lies there reaches no result. A pair without an expert and a pair
// of weight 0 are the same to a mixture of experts, though the first leaves rows of the grouped products unused.
import { describe, it } from 'vitest';
import { gradients } from '../../src/autodiff/gradients.js';
import type { Value } from '../../src/graph/graph.js';
import { add, multiply, tanh } from '../../src/ops/elementwise.js';
import { groupedMatmul } from '../../src/ops/grouped-matmul.js';
import { expertOrder, permute, unpermute } from '../../src/ops/permute.js';
import { sum } from '../../src/ops/reduce.js';
import { swiglu } from '../../src/ops/swiglu.js';
import { compare } from '../support/compare.js';
import { runGraph } from '../support/op-case.js';
import { poisonArena } from '../support/poison.js';
import { Rng } from '../support/rng.js';

const [T, K, E, D, I] = [9, 2, 4, 6, 5];

/** The layer's result and its gradients by tokens, expert weights, a bias that all rows share, and pair weights. */
function layer({ x, up, down, bias, ids, weights }: Record<string, Value>): Value[] {
  const order = expertOrder(ids as Value, { experts: E });
  const rows = add(multiply(permute(x as Value, order), 0.5), bias as Value);
  const hidden = swiglu(tanh(groupedMatmul(rows, up as Value, order.offsets)));
  const y = unpermute(groupedMatmul(hidden, down as Value, order.offsets), order, weights as Value);
  const wrt = [x, up, down, bias, weights] as Value[];
  return [y, ...gradients(sum(multiply(y, y), [0, 1]), wrt)];
}

function inputs(ids: number[], weights: number[]) {
  const rng = new Rng('extents');
  const normal = (shape: number[]) => ({
    shape,
    dtype: 'fp32' as const,
    data: Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => rng.normal()),
  });
  return {
    x: normal([T, D]),
    up: normal([E, D, 2 * I]),
    down: normal([E, I, D]),
    bias: normal([D]),
    ids: { shape: [T, K], dtype: 'int32' as const, data: ids },
    weights: { shape: [T, K], dtype: 'fp32' as const, data: weights },
  };
}

describe('a mixture of experts with unused rows', () => {
  for (const dropped of [[3], [0, 1, 7, 17], Array.from({ length: T * K }, (_, i) => i)]) {
    it(`equals one whose pairs ${dropped.length > 4 ? '(all)' : dropped} have weight 0`, async () => {
      const rng = new Rng(dropped.length);
      const ids = Array.from({ length: T * K }, () => rng.integer(E));
      const weights = Array.from({ length: T * K }, (_, i) => (dropped.includes(i) ? 0 : rng.uniform()));
      const expected = await runGraph(inputs(ids, weights), layer);
      await poisonArena();
      const without = ids.map((id, i) => (dropped.includes(i) ? -1 : id));
      const got = await runGraph(inputs(without, weights), layer);
      for (const [n, name] of ['y', 'dx', 'dup', 'ddown', 'dbias'].entries()) {
        compare(name, got[n] as Float64Array, expected[n] as Float64Array, { allowed: 1e-5 });
      }
      // The weight of a pair without an expert has no gradient; the others' are the same.
      const kept = (found: Float64Array[]) =>
        [...(found[5] as Float64Array)].map((g, i) => (dropped.includes(i) ? 0 : g));
      compare('dweights', got[5] as Float64Array, kept(expected), { allowed: 1e-5 });
    });
  }
});
