import { expect, it } from 'vitest';
import { gradients } from '../../src/autodiff/gradients.js';
import type { DType } from '../../src/core/dtype.js';
import { Graph, type Value } from '../../src/graph/graph.js';
import { multiply } from '../../src/ops/elementwise.js';
import { sum } from '../../src/ops/reduce.js';
import { bound } from '../../src/ops/shape.js';
import { statistics } from '../../src/ops/statistics.js';
import { describeOp, expectHadalError, runGraph } from '../support/op-case.js';
import { cases } from './statistics.cases.js';

describeOp('statistics', cases);

it('counts the rows in use only', async () => {
  const rows = [1, 2, 0, 4, Number.NaN, 9, 0, 0];
  const of = async (used: number, dtype: DType) => {
    const inputs = {
      x: { shape: [4, 2], dtype, data: rows },
      used: { shape: [1], dtype: 'int32' as const, data: [used] },
    };
    const [found] = await runGraph(inputs, (values) => [statistics(bound(values.x as Value, values.used as Value))]);
    return [...(found as Float64Array)];
  };
  for (const dtype of ['fp32', 'bf16', 'fp16'] as const) {
    expect(await of(2, dtype)).toEqual([0, 4, 1, 0, 4]);
    expect(await of(3, dtype)).toEqual([0, 9, 1, 1, 6]);
    expect(await of(0, dtype)).toEqual([Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 0, 0, 0]);
  }
  await expect(of(5, 'fp32')).rejects.toMatchObject({ code: 'HADAL_ERR_RUN', message: /extent 5 is out of range/ });
});

it('sees what is not finite wherever it stands', async () => {
  for (const [place, x] of [0, 15, 16, 16_383, 16_384, 20_002].flatMap((i) => [
    [i, Number.NaN],
    [i, Number.NEGATIVE_INFINITY],
  ]) as [number, number][]) {
    const data = Float32Array.from({ length: 20_003 }, (_, i) => (i === place ? x : 1));
    const [found] = await runGraph({ x: { shape: [data.length], dtype: 'fp32', data } }, ({ x }) => [statistics(x!)]);
    expect([...(found as Float64Array)]).toEqual([1, 1, 0, 1, 20_003]);
  }
});

it('carries no gradient', async () => {
  const [gradient] = await runGraph({ x: { shape: [3], dtype: 'fp32', data: [1, 2, 3] } }, ({ x }) => {
    const loss = sum(multiply(x!, 2), [0]);
    return gradients(sum(multiply(statistics(x!), loss), [0]), [x!]);
  });
  // 2 · (1 + 3 + 0 + 0 + 3), none of it through the statistics.
  expect([...(gradient as Float64Array)]).toEqual([14, 14, 14]);
});

it('refuses integers', () => {
  const x = new Graph().input('x', [3], 'int32');
  expectHadalError(() => statistics(x), 'HADAL_ERR_DTYPE', /x of dtype float, got int32/);
});
