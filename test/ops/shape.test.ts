import { describe, expect, it } from 'vitest';
import { Graph, type Value } from '../../src/graph/graph.js';
import { broadcastTo, concat, reshape, slice, transpose } from '../../src/ops/shape.js';
import { fill, iota, scalar, zerosLike } from '../../src/ops/sources.js';
import { describeOp, expectHadalError, runGraph } from '../support/op-case.js';
import { cases } from './shape.cases.js';

describeOp('shape', cases);

describe('shape ops', () => {
  it('copy int32 bit by bit', async () => {
    const data = [2 ** 24 + 1, -(2 ** 31), 2 ** 31 - 1, 3, 2 ** 30 + 7, 5];
    const found = await runGraph({ x: { shape: [2, 3], dtype: 'int32', data } }, ({ x }) => {
      const v = x as Value;
      return [
        transpose(v, [1, 0]),
        slice(v, 1, 1, 3),
        concat([v, v], 0),
        broadcastTo(slice(v, 0, 0, 1), [2, 3]),
        reshape(v, [6]),
      ];
    });
    const [a, b, c, d, e, f] = data;
    expect(found.map((y) => [...y])).toEqual([
      [a, d, b, e, c, f],
      [b, c, e, f],
      [...data, ...data],
      [a, b, c, a, b, c],
      data,
    ]);
  });

  it('copy int32 bit by bit in tiles', async () => {
    const data = Array.from({ length: 35 * 34 }, (_, i) => 2 ** 30 + i);
    const [y] = await runGraph({ x: { shape: [35, 34], dtype: 'int32', data } }, ({ x }) => [
      transpose(x as Value, [1, 0]),
    ]);
    expect([...(y as Float64Array)]).toEqual(data.map((_, i) => 2 ** 30 + (i % 35) * 34 + Math.floor(i / 35)));
  });

  it('do nothing where nothing changes', () => {
    const x = new Graph().input('x', [2, 3], 'fp32');
    for (const same of [
      reshape(x, [2, 3]),
      transpose(x, [0, 1]),
      slice(x, 1, 0, 3),
      concat([x], 0),
      broadcastTo(x, [2, 3]),
    ]) {
      expect(same).toBe(x);
    }
  });

  it('move no number where only dims of size 1 change places', async () => {
    const x = new Graph().input('x', [1, 2, 1, 3], 'fp32');
    const y = transpose(x, [1, 3, 0, 2]);
    expect([y.node.op.name, y.shape]).toEqual(['reshape', [2, 3, 1, 1]]);
    expect(transpose(x, [0, 3, 2, 1]).node.op.name).toBe('transpose');
  });

  it('refuse what does not fit', () => {
    const graph = new Graph();
    const x = graph.input('x', [2, 3], 'fp32');
    const refused = (action: () => unknown, message: RegExp) => expectHadalError(action, 'HADAL_ERR_SHAPE', message);
    refused(() => reshape(x, [4]), /\[reshape\] expected a shape of 6 elements, got \[4\]/);
    refused(() => reshape(x, [-1, 4]), /\[reshape\]/);
    refused(() => transpose(x, [0]), /\[transpose\] expected an order of the dims of fp32 \[2, 3\], got \[0\]/);
    refused(() => transpose(x, [0, 0]), /\[transpose\]/);
    refused(() => slice(x, 2, 0, 1), /\[slice\]/);
    refused(() => slice(x, 1, 2, 1), /range within dim 1 of fp32 \[2, 3\], got \[2, 1\)/);
    refused(() => slice(x, 1, 0, 4), /\[slice\]/);
    refused(() => concat([], 0), /\[concat\]/);
    refused(
      () => concat([x, graph.input('y', [2, 2], 'fp32')], 0),
      /alike but for dim 0, got fp32 \[2, 3\] and fp32 \[2, 2\]/,
    );
    refused(() => concat([x, graph.input('i', [2, 3], 'int32')], 0), /\[concat\]/);
    refused(
      () => broadcastTo(x, [2, 4]),
      /\[broadcast\] expected a shape that fp32 \[2, 3\] broadcasts to, got \[2, 4\]/,
    );
    refused(() => broadcastTo(x, [3]), /\[broadcast\]/);
    expect(reshape(x, [-1]).shape).toEqual([6]);
  });
});

it('sources hold what they say', async () => {
  const found = await runGraph({ x: { shape: [2], dtype: 'bf16', data: [5, 6] } }, ({ x }, graph) => [
    fill(graph, [2, 2], 1.5, 'fp16'),
    iota(graph, 4),
    zerosLike(x as Value),
    scalar(graph, -2),
  ]);
  expect(found.map((y) => [...y])).toEqual([[1.5, 1.5, 1.5, 1.5], [0, 1, 2, 3], [0, 0], [-2]]);
});
