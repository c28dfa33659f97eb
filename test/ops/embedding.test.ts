import { expect, it } from 'vitest';
import { Graph } from '../../src/graph/graph.js';
import { add, cast, multiply } from '../../src/ops/elementwise.js';
import { embedding, embeddingBackward } from '../../src/ops/embedding.js';
import { foldCasts } from '../../src/passes/fold-casts.js';
import { fuseAddends } from '../../src/passes/fuse-addends.js';
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

it('sums onto a gradient that is there already, and touches no other rows', async () => {
  const inputs = {
    dy: { shape: [4, 3], dtype: 'fp32' as const, data: Array.from({ length: 12 }, (_, i) => i) },
    ids: { shape: [4], dtype: 'int32' as const, data: [4, 1, 4, 0] },
    other: { shape: [6, 3], dtype: 'fp32' as const, data: new Array(18).fill(100) },
  };
  const compiled: string[] = [];
  const [sum] = await runGraph(
    inputs,
    ({ dy, ids, other }) => [add(multiply(other!, 1), embeddingBackward(dy!, ids!, 6))],
    (graph) => {
      const fused = fuseAddends(graph);
      compiled.push(...fused.nodes.filter(({ op }) => !op.isSource).map(({ op }) => op.name));
      return fused;
    },
  );
  expect(compiled).toEqual(['multiply', 'embedding-accumulate']);
  expect(Array.from(sum!)).toEqual([
    109,
    110,
    111,
    103,
    104,
    105,
    ...new Array(6).fill(100),
    106,
    108,
    110,
    100,
    100,
    100,
  ]);
});

it('gives its result in another dtype when that is what is read', () => {
  const graph = new Graph();
  const ids = graph.input('ids', [3], 'int32');
  const rows = embedding(graph.input('table', [4, 2], 'fp32'), ids);
  graph.output('rows', cast(rows, 'bf16'));
  graph.output('sums', cast(embeddingBackward(graph.input('dy', [3, 2], 'bf16'), ids, 4), 'fp32'));
  const folded = foldCasts(graph);
  expect(folded.nodes.map(({ op }) => op.name)).not.toContain('cast');
  expect(folded.outputs.get('rows')?.type).toBe('bf16 [3, 2]');
  expect(folded.outputs.get('sums')?.type).toBe('fp32 [4, 2]');
});
