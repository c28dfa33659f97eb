import { describe, expect, it } from 'vitest';
import { gradients } from '../../src/autodiff/gradients.js';
import { Graph, type Value } from '../../src/graph/graph.js';
import { add, multiply } from '../../src/ops/elementwise.js';
import { expertOrder, permute } from '../../src/ops/permute.js';
import { max, mean, sum, sumOfSquares, sumTo } from '../../src/ops/reduce.js';
import { describeOp, expectHadalError, runGraph } from '../support/op-case.js';
import { poisonArena } from '../support/poison.js';
import { cases } from './reduce.cases.js';

describeOp('reduce', cases);

describe('reductions', () => {
  it('of int32 are exact beyond 2^24', async () => {
    const data = [2 ** 24 + 1, 2 ** 24 + 2, -(2 ** 30), 7];
    const [total, most] = await runGraph({ x: { shape: [2, 2], dtype: 'int32', data } }, ({ x }) => [
      sum(x as Value, [0]),
      max(x as Value, [1]),
    ]);
    expect([...(total as Float64Array)]).toEqual([2 ** 24 + 1 - 2 ** 30, 2 ** 24 + 9]);
    expect([...(most as Float64Array)]).toEqual([2 ** 24 + 2, 7]);
  });

  it('of int32 are exact in wide rows', async () => {
    const data = Array.from({ length: 3 * 132 }, (_, i) => 2 ** 24 + i);
    const [total] = await runGraph({ x: { shape: [3, 132], dtype: 'int32', data } }, ({ x }) => [sum(x as Value, [0])]);
    expect([...(total as Float64Array)]).toEqual(Array.from({ length: 132 }, (_, i) => 3 * (2 ** 24 + 132 + i)));
  });

  it('keep NaN', async () => {
    const data = [1, Number.NaN, 3, 5, 6, 4];
    const found = await runGraph({ x: { shape: [2, 3], dtype: 'fp32', data } }, ({ x }) => [
      max(x as Value, [1]),
      sum(x as Value, [1]),
      max(x as Value, [0]),
    ]);
    expect(found.map((y) => [...y])).toEqual([
      [Number.NaN, 6],
      [Number.NaN, 15],
      [5, Number.NaN, 4],
    ]);
  });

  it('over rows count only those in use', async () => {
    await poisonArena();
    // Three tokens for two experts each, but one for a single one: five rows of six are in use.
    const tokens = { shape: [3, 5], dtype: 'fp32' as const, data: Array.from({ length: 15 }, (_, i) => i + 1) };
    const experts = { shape: [3, 2], dtype: 'int32' as const, data: [0, 1, 2, 3, 1, -1] };
    const found = await runGraph({ tokens, experts }, ({ tokens: x, experts: ids }) => {
      const rows = permute(x as Value, expertOrder(ids as Value, { experts: 4 }));
      const bias = multiply(sum(x as Value, [0]), 0);
      const [dbias] = gradients(sum(multiply(add(rows, bias), 2), [0, 1]), [bias]);
      return [sum(rows, [0]), sum(rows, [0, 1]), sumOfSquares(rows, [1, 0]), dbias as Value];
    });
    const uses = [2, 2, 1];
    const column = (j: number) => uses.reduce((total, n, t) => total + n * (5 * t + j + 1), 0);
    const columns = [0, 1, 2, 3, 4].map(column);
    const all = columns.reduce((a, b) => a + b);
    const squares = tokens.data.reduce((total, x, i) => total + (i < 10 ? 2 : 1) * x * x, 0);
    expect(found.map((y) => [...y])).toEqual([columns, [all], [squares], [10, 10, 10, 10, 10]]);
  });

  it('refuse axes that are not there', () => {
    const x = new Graph().input('x', [2, 3], 'fp32');
    expectHadalError(() => sum(x, [2]), 'HADAL_ERR_SHAPE', /\[sum\] expected axes within fp32 \[2, 3\], got \[2\]/);
    expectHadalError(() => mean(x, [-1]), 'HADAL_ERR_SHAPE', /axes within/);
    expect(sum(x, []).shape).toEqual([2, 3]);
    expect(sumTo(x, [2, 3])).toBe(x);
    expect(sumTo(x, [1, 3]).shape).toEqual([1, 3]);
    expect(sumTo(x, [3]).shape).toEqual([3]);
  });
});
