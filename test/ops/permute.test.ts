import { expect, it } from 'vitest';
import { Graph } from '../../src/graph/graph.js';
import { expertOrder, permute, unpermute } from '../../src/ops/permute.js';
import { describeOp, expectHadalError, runGraph } from '../support/op-case.js';
import { cases } from './permute.cases.js';

describeOp('permute', cases);

it('rows carry the number of them in use', () => {
  const graph = new Graph();
  const order = expertOrder(graph.input('experts', [2, 3, 2], 'int32'), { experts: 4 });
  const rows = permute(graph.input('x', [6, 8], 'fp32'), order);
  expect(rows.shape).toEqual([12, 8]);
  expect(rows.extent).toBe(order.rows);
  const back = unpermute(rows, order, null);
  expect(back.shape).toEqual([6, 8]);
  expect(back.extent).toBeNull();
});

it('an expert that does not exist ends the step and is named', async () => {
  const experts = { shape: [2, 1], dtype: 'int32' as const, data: [0, 3] };
  const order = runGraph({ experts }, ({ experts }) => [expertOrder(experts!, { experts: 3 }).rows]);
  await expect(order).rejects.toThrow(/experts from -1 to 2, got 3/);
});

it('names what does not fit', () => {
  const graph = new Graph();
  const order = expertOrder(graph.input('experts', [3, 2], 'int32'), { experts: 4 });
  const x = graph.input('x', [4, 8], 'fp32');
  const y = graph.input('y', [6, 8], 'fp32');
  expectHadalError(() => permute(x, order), 'HADAL_ERR_SHAPE', /x of shape \[3, 8\].*\[4, 8\]/);
  expectHadalError(() => unpermute(x, order, null), 'HADAL_ERR_SHAPE', /y of shape \[6, 8\].*\[4, 8\]/);
  expectHadalError(() => unpermute(y, order, graph.input('w', [2, 2], 'fp32')), 'HADAL_ERR_SHAPE', /weights.*\[3, 2\]/);
  expectHadalError(() => unpermute(y, order, graph.input('h', [3, 2], 'bf16')), 'HADAL_ERR_DTYPE', /weights.*fp32/);
  expectHadalError(() => expertOrder(x, { experts: 4 }), 'HADAL_ERR_DTYPE', /experts of dtype int32/);
});
