import { expect, it } from 'vitest';
import { gradients } from '../../src/autodiff/gradients.js';
import { Graph, type Value } from '../../src/graph/graph.js';
import { packedMatmul, packWeights } from '../../src/ops/packed-matmul.js';
import { sum } from '../../src/ops/reduce.js';
import { describeOp, expectHadalError, runGraph } from '../support/op-case.js';
import { Rng } from '../support/rng.js';
import { cases } from './packed-matmul.cases.js';

describeOp('packed-matmul', cases);

it('a row does not depend on the rows beside it', async () => {
  const [rows, n, k] = [17, 100, 77];
  const rng = new Rng('rows');
  const normal = (length: number) => Float64Array.from({ length }, () => Math.fround(rng.normal()));
  const all = normal(rows * k);
  const w = { shape: [n, k], dtype: 'fp32' as const, data: normal(n * k) };
  const run = async (data: Float64Array) => {
    const a = { shape: [data.length / k, k], dtype: 'fp32' as const, data };
    const [c] = await runGraph({ a, w }, ({ a, w }) => [
      packedMatmul(a as Value, packWeights(w as Value, { transposeB: true }), { n }),
    ]);
    return c as Float64Array;
  };
  const together = await run(all);
  for (const [first, count] of [
    [0, 1],
    [3, 2],
    [5, 3],
    [4, 13],
  ] as const) {
    const some = await run(all.slice(first * k, (first + count) * k));
    expect(some).toEqual(together.slice(first * n, (first + count) * n));
  }
});

it('packs panels of 32 columns, the last one filled up with zeros', async () => {
  const w = { shape: [2, 33], dtype: 'fp32' as const, data: Array.from({ length: 66 }, (_, i) => i + 1) };
  const [packed] = await runGraph({ w }, ({ w }) => [packWeights(w as Value)]);
  const row = (first: number) => Array.from({ length: 32 }, (_, i) => first + i);
  const last = (x: number) => [x, ...new Array<number>(31).fill(0)];
  expect([...(packed as Float64Array)]).toEqual([...row(1), ...row(34), ...last(33), ...last(66)]);
});

it('names what does not fit', () => {
  const graph = new Graph();
  const a = graph.input('a', [2, 5], 'fp32');
  const packed = packWeights(graph.input('w', [40, 5], 'fp32'), { transposeB: true });
  const shapeError = (action: () => unknown, says: RegExp) => expectHadalError(action, 'HADAL_ERR_SHAPE', says);
  shapeError(() => packedMatmul(a, packed, { n: 65 }), /packed of shape \[3, 5, 32\], got fp32 \[2, 5, 32\]/);
  shapeError(() => packedMatmul(a, packed, { n: -1 }), /n >= 0, got -1/);
  shapeError(() => packedMatmul(graph.input('b', [2, 6], 'fp32'), packed, { n: 40 }), /\[2, 6, 32\]/);
  shapeError(() => packWeights(graph.input('v', [4, 5, 6, 7], 'fp32')), /w of shape \[\?, \?\]/);
  const heads = packWeights(graph.input('h', [3, 5, 40], 'fp32'));
  shapeError(() => packedMatmul(a, heads, { n: 40 }), /a of rank 3, got fp32 \[2, 5\]/);
  shapeError(
    () => packedMatmul(graph.input('c', [2, 7, 5], 'fp32'), heads, { n: 40 }),
    /packed of shape \[2, 2, 5, 32\]/,
  );
  expectHadalError(() => packWeights(graph.input('i', [4, 5], 'int32')), 'HADAL_ERR_DTYPE', /w of dtype float/);
});

it('has no gradient, and says so', () => {
  const graph = new Graph();
  const a = graph.input('a', [2, 5], 'fp32');
  const c = packedMatmul(a, packWeights(graph.input('w', [4, 5], 'fp32'), { transposeB: true }), { n: 4 });
  expect(() => gradients(sum(c, [0, 1]), [a])).toThrow(/op 'packed-matmul'.* has no gradient/);
});
