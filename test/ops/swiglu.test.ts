import { expect, it } from 'vitest';
import { gradients } from '../../src/autodiff/gradients.js';
import { Graph } from '../../src/graph/graph.js';
import { expertOrder, permute, unpermute } from '../../src/ops/permute.js';
import { sum } from '../../src/ops/reduce.js';
import { swiglu } from '../../src/ops/swiglu.js';
import { describeOp, expectHadalError, runGraph } from '../support/op-case.js';
import { cases } from './swiglu.cases.js';

describeOp('swiglu', cases);

it('inherits the extent of its input, forward and backward', () => {
  const graph = new Graph();
  const order = expertOrder(graph.input('experts', [3, 2], 'int32'), { experts: 4 });
  const rows = permute(graph.input('x', [3, 8], 'fp32'), order);
  const y = swiglu(rows);
  expect(y.extent).toBe(order.rows);
  expect(gradients(sum(unpermute(y, order, null), [0, 1]), [rows])[0]!.extent).toBe(order.rows);
});

it('works on the rows in use', async () => {
  const inputs = {
    x: { shape: [5, 6], dtype: 'fp32' as const, data: Array.from({ length: 30 }, (_, i) => Math.sin(i)) },
    experts: { shape: [5, 2], dtype: 'int32' as const, data: [1, -1, 0, 2, -1, -1, 2, 1, -1, 0] },
  };
  // Each token's result, times the experts it goes to, by way of ragged rows and directly.
  const [ragged, direct, dragged, ddirect] = await runGraph(inputs, ({ x, experts }) => {
    const order = expertOrder(experts!, { experts: 3 });
    const a = unpermute(swiglu(permute(x!, order)), order, null);
    const b = swiglu(x!);
    return [a, b, gradients(sum(a, [0, 1]), [x!])[0]!, gradients(sum(b, [0, 1]), [x!])[0]!];
  });
  const routed = [1, 2, 0, 2, 1];
  direct!.forEach((v, i) => {
    expect(ragged![i]).toBeCloseTo(v * routed[Math.floor(i / 3)]!, 6);
  });
  ddirect!.forEach((v, i) => {
    expect(dragged![i]).toBeCloseTo(v * routed[Math.floor(i / 6)]!, 6);
  });
});

it('names what does not fit', () => {
  const graph = new Graph();
  expectHadalError(() => swiglu(graph.input('x', [3, 5], 'fp32')), 'HADAL_ERR_SHAPE', /even last dim.*\[3, 5\]/);
});
