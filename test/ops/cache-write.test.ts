import { describe, expect, it } from 'vitest';
import { Graph } from '../../src/graph/graph.js';
import { cacheWrite } from '../../src/ops/cache-write.js';
import { compile } from '../../src/runtime/compile.js';
import { describeOp, expectHadalError, runGraph, testDevice } from '../support/op-case.js';
import { cases } from './cache-write.cases.js';

describeOp('cache-write', cases);

describe('cache-write', () => {
  it('refuses tokens that do not fit', () => {
    const build = (x: number[], start: number[]) => () => {
      const graph = new Graph();
      return cacheWrite(
        graph.slot('k', [2, 8, 3, 4], 'fp32'),
        graph.input('x', x, 'fp32'),
        graph.input('start', start, 'int32'),
      );
    };
    expect(build([2, 1, 3, 4], [2])).not.toThrow();
    expectHadalError(
      build([2, 1, 3, 5], [2]),
      'HADAL_ERR_SHAPE',
      /x of shape \[2, \?, 3, 4\], got fp32 \[2, 1, 3, 5\]/,
    );
    expectHadalError(build([2, 12], [2]), 'HADAL_ERR_SHAPE', /x of shape/);
    expectHadalError(build([2, 1, 3, 4], [1]), 'HADAL_ERR_SHAPE', /start of shape \[2\]/);
  });

  it('fills a state slot in place, step by step, and fails beyond its end with what was written intact', async () => {
    const graph = new Graph();
    const cache = graph.slot('cache', [2, 4, 2], 'fp32');
    graph.update('cache', cacheWrite(cache, graph.input('x', [2, 1, 2], 'fp32'), graph.input('start', [2], 'int32')));
    const device = testDevice();
    const program = device.load(compile(graph, device.target));
    // One instruction: nothing is copied around it.
    expect(program.instructions.map(({ op }) => op)).toEqual(['cache-write']);
    using tensor = device.allocate([2, 4, 2], 'fp32');
    const write = (numbers: number[], start: number[]) =>
      device.run([
        { program, slots: { cache: tensor }, inputs: { x: Float32Array.from(numbers), start: Int32Array.from(start) } },
      ]);
    await write([1, 2, 3, 4], [0, 3]);
    await write([5, 6, 7, 8], [1, 2]);
    const expected = [1, 2, 5, 6, 0, 0, 0, 0, 0, 0, 0, 0, 7, 8, 3, 4];
    expect([...(await tensor.toFloat32())]).toEqual(expected);
    await expect(write([9, 9, 9, 9], [4, -1])).rejects.toMatchObject({
      code: 'HADAL_ERR_RUN',
      message: expect.stringMatching(
        /\[cache-write\] expected start \+ 1 tokens within a capacity of 4, got start (4|-1)/,
      ),
    });
    expect([...(await tensor.toFloat32())]).toEqual(expected);
  });
  it.each([[3], [-1]])('a run with count %i of 2 tokens fails', async (count) => {
    const inputs = {
      cache: { shape: [1, 8, 1], dtype: 'fp32' as const, data: new Float32Array(8) },
      x: { shape: [1, 2, 1], dtype: 'fp32' as const, data: [1, 2] },
      start: { shape: [1], dtype: 'int32' as const, data: [0] },
      counts: { shape: [1], dtype: 'int32' as const, data: [count] },
    };
    const run = runGraph(inputs, ({ cache, x, start, counts }) => [cacheWrite(cache!, x!, start!, counts)]);
    await expect(run).rejects.toMatchObject({
      code: 'HADAL_ERR_RUN',
      message: expect.stringContaining(`expected counts from 0 to 2, got ${count}`),
    });
  });
});
