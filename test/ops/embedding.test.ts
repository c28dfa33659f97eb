import { expect, it } from 'vitest';
import { Graph } from '../../src/graph/graph.js';
import { embedding, embeddingBackward } from '../../src/ops/embedding.js';
import { describeOp, expectHadalError, runGraph } from '../support/op-case.js';
import { cases } from './embedding.cases.js';

describeOp('embedding', cases);

it.each([4, -1, 2 ** 31 - 1])('id %i outside of a table of 4 rows ends the step and is named', async (id) => {
  const inputs = {
    table: { shape: [4, 2], dtype: 'fp32' as const, data: new Array(8).fill(1) },
    ids: { shape: [3], dtype: 'int32' as const, data: [0, id, 3] },
  };
  const message = new RegExp(`4 rows.*got ${id}`);
  await expect(runGraph(inputs, ({ table, ids }) => [embedding(table!, ids!)])).rejects.toThrow(message);
  await expect(
    runGraph(inputs, ({ table, ids }) => [embeddingBackward(embedding(table!, ids!), ids!, 4)]),
  ).rejects.toThrow(message);
});

it('names what does not fit', () => {
  const graph = new Graph();
  const ids = graph.input('ids', [3], 'int32');
  const rows = graph.input('rows', [4, 2], 'fp32');
  expectHadalError(() => embedding(graph.input('t', [4], 'fp32'), ids), 'HADAL_ERR_SHAPE', /table of rank 2/);
  expectHadalError(() => embedding(rows, rows), 'HADAL_ERR_DTYPE', /ids of dtype int32/);
  expectHadalError(() => embeddingBackward(rows, ids, 5), 'HADAL_ERR_SHAPE', /dy of shape \[3, 2\].*\[4, 2\]/);
});
