import { expect, it } from 'vitest';
import type { DType } from '../../src/core/dtype.js';
import { Graph } from '../../src/graph/graph.js';
import { latentHeads } from '../../src/ops/latent-heads.js';
import { describeOp, expectHadalError, runGraph } from '../support/op-case.js';
import { cases } from './latent-heads.cases.js';

describeOp('latent-heads', cases);

it('names what does not fit', () => {
  const build = (shapes: Partial<Record<'q' | 'keyValue' | 'sharedKey' | 'table' | 'positions', number[]>>) => () => {
    const graph = new Graph();
    const value = (name: keyof typeof shapes, shape: number[], dtype: DType = 'fp32') =>
      graph.input(name, shapes[name] ?? shape, dtype);
    const table = value('table', [9, 2]);
    return latentHeads({
      q: value('q', [2, 3, 4, 10]),
      keyValue: value('keyValue', [2, 3, 4, 11]),
      sharedKey: value('sharedKey', [2, 3, 1, 4]),
      cos: table,
      sin: table,
      positions: value('positions', [2, 3], 'int32'),
      layout: 'half',
    });
  };
  expect(build({})).not.toThrow();
  expectHadalError(build({ q: [2, 3, 4, 3] }), 'HADAL_ERR_SHAPE', /within a head of q, got 4 of 3/);
  expectHadalError(build({ keyValue: [2, 3, 4, 5] }), 'HADAL_ERR_SHAPE', /keyValue of 6 dims or more/);
  expectHadalError(build({ keyValue: [2, 3, 1, 11] }), 'HADAL_ERR_SHAPE', /keyValue of shape \[2, 3, 4, \?\]/);
  expectHadalError(build({ sharedKey: [2, 3, 4, 4] }), 'HADAL_ERR_SHAPE', /sharedKey of shape \[2, 3, 1, 4\]/);
  expectHadalError(build({ positions: [3, 2] }), 'HADAL_ERR_SHAPE', /positions of shape \[2, 3\]/);
  expectHadalError(build({ table: [18] }), 'HADAL_ERR_SHAPE', /cos of rank 2/);
});

it.each([-1, 9])('fails on position %i of 9', async (position) => {
  const fp32 = (shape: number[]) => ({
    shape,
    dtype: 'fp32' as const,
    data: new Array(shape.reduce((a, b) => a * b)).fill(1),
  });
  const inputs = {
    q: fp32([1, 2, 1, 3]),
    keyValue: fp32([1, 2, 1, 3]),
    sharedKey: fp32([1, 2, 1, 2]),
    table: fp32([9, 1]),
    positions: { shape: [1, 2], dtype: 'int32' as const, data: [0, position] },
  };
  const run = runGraph(inputs, ({ q, keyValue, sharedKey, table, positions }) => {
    const heads = latentHeads({
      q: q!,
      keyValue: keyValue!,
      sharedKey: sharedKey!,
      cos: table!,
      sin: table!,
      positions: positions!,
      layout: 'half',
    });
    return [heads.k];
  });
  await expect(run).rejects.toMatchObject({
    code: 'HADAL_ERR_RUN',
    message: expect.stringContaining(`[latent-heads] expected positions of 0 to 8, got ${position}`),
  });
});
