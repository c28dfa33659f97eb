import { expect, it } from 'vitest';
import { Graph } from '../../src/graph/graph.js';
import { ema } from '../../src/ops/ema.js';
import { describeOp, expectHadalError, runGraph } from '../support/op-case.js';
import { cases } from './ema.cases.js';

describeOp('ema', cases);

it('takes what is new as it is where the rest is 1', async () => {
  const x = {
    shape: [40],
    dtype: 'fp32' as const,
    data: Array.from({ length: 40 }, (_, i) => Math.fround(Math.sin(i))),
  };
  const mean = { ...x, data: x.data.map((_, i) => 1e7 * i) };
  const rest = { shape: [1], dtype: 'fp32' as const, data: [1] };
  const [next] = await runGraph({ x, mean, rest }, ({ x, mean, rest }) => ema([{ x: x!, mean: mean! }], rest!));
  expect(Array.from(next!)).toEqual(x.data);
});

it('names what does not fit', () => {
  const graph = new Graph();
  const x = graph.input('x', [3], 'fp32');
  const half = graph.input('half', [3], 'bf16');
  const one = graph.input('one', [1], 'fp32');
  expectHadalError(() => ema([{ x, mean: one }], one), 'HADAL_ERR_SHAPE', /mean of shape \[3\]/);
  expectHadalError(() => ema([{ x, mean: half }], one), 'HADAL_ERR_DTYPE', /mean of dtype fp32/);
  expectHadalError(() => ema([{ x, mean: x }], x), 'HADAL_ERR_SHAPE', /rest of shape \[1\]/);
});
