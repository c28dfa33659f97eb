import { describe, expect, it } from 'vitest';
import type { DType } from '../../src/core/dtype.js';
import { Graph } from '../../src/graph/graph.js';
import { rotaryTables } from '../../src/nn/rotary-tables.js';
import { rotary } from '../../src/ops/rotary.js';
import { compare } from '../support/compare.js';
import { describeOp, expectHadalError, runGraph } from '../support/op-case.js';
import { Rng } from '../support/rng.js';
import { cases } from './rotary.cases.js';

describeOp('rotary', cases);

const fp32 = (shape: number[], data: ArrayLike<number>) => ({ shape, dtype: 'fp32' as DType, data });
const int32 = (shape: number[], data: ArrayLike<number>) => ({ shape, dtype: 'int32' as DType, data });
const { cos, sin } = rotaryTables(40, 6, 100);
const tables = { cos: fp32([40, 3], cos), sin: fp32([40, 3], sin) };

describe('rotary', () => {
  it('refuses tables and positions that do not fit', () => {
    const build = (table: number[], positions: number[], offset: number) => () => {
      const graph = new Graph();
      const t = graph.input('table', table, 'fp32');
      const x = graph.input('x', [2, 3, 4, 10], 'fp32');
      return rotary(x, t, t, graph.input('positions', positions, 'int32'), { layout: 'half', offset });
    };
    expect(build([9, 3], [2, 3], 4)).not.toThrow();
    expectHadalError(build([9, 3], [2, 3], 5), 'HADAL_ERR_SHAPE', /within a head of 10, got 6 from 5 on/);
    expectHadalError(build([9, 3], [2, 3], -1), 'HADAL_ERR_SHAPE', /within a head of 10/);
    expectHadalError(build([9, 3], [3, 2], 0), 'HADAL_ERR_SHAPE', /positions of shape \[2, 3\]/);
    expectHadalError(build([27], [2, 3], 0), 'HADAL_ERR_SHAPE', /cos of rank 2/);
  });

  it.each([-1, 40])('fails on position %i of 40', async (position) => {
    const inputs = { x: fp32([1, 2, 1, 6], new Array(12).fill(1)), ...tables, positions: int32([1, 2], [0, position]) };
    const run = runGraph(inputs, ({ x, cos, sin, positions }) => [
      rotary(x!, cos!, sin!, positions!, { layout: 'half' }),
    ]);
    await expect(run).rejects.toMatchObject({
      code: 'HADAL_ERR_RUN',
      message: expect.stringContaining(`[rotary] expected positions of 0 to 39, got ${position}`),
    });
  });

  it.each(['interleaved', 'half'] as const)('%s: scores depend on the distance of positions alone', async (layout) => {
    const rng = new Rng(layout);
    const x = Float64Array.from({ length: 6 }, () => rng.normal());
    const y = Float64Array.from({ length: 6 }, () => rng.normal());
    const inputs = {
      x: fp32([1, 4, 1, 6], [...x, ...y, ...x, ...y]),
      ...tables,
      positions: int32([1, 4], [3, 10, 32, 39]),
    };
    const [turned] = await runGraph(inputs, ({ x, cos, sin, positions }) => [
      rotary(x!, cos!, sin!, positions!, { layout }),
    ]);
    const row = (i: number) => turned!.subarray(i * 6, i * 6 + 6);
    const score = (a: Float64Array, b: Float64Array) => [a.reduce((total, value, i) => total + value * b[i]!, 0)];
    compare('score', score(row(0), row(1)), score(row(2), row(3)), { allowed: 1e-5 });
    expect(score(row(0), row(1))[0]).not.toBeCloseTo(score(x, y)[0]!, 2);
  });

  it.each(['interleaved', 'half'] as const)('%s: inverse turns back', async (layout) => {
    const rng = new Rng(layout);
    const data = Float64Array.from({ length: 5 * 2 * 8 }, () => Math.fround(rng.normal()));
    const inputs = { x: fp32([1, 5, 2, 8], data), ...tables, positions: int32([1, 5], [0, 1, 17, 39, 5]) };
    const [there, back] = await runGraph(inputs, ({ x, cos, sin, positions }) => {
      const y = rotary(x!, cos!, sin!, positions!, { layout, offset: 1 });
      return [y, rotary(y, cos!, sin!, positions!, { layout, offset: 1, inverse: true })];
    });
    compare('back', back!, data, { allowed: 1e-6 });
    expect(Math.max(...there!.map((value, i) => Math.abs(value - data[i]!)))).toBeGreaterThan(0.1);
  });
});
