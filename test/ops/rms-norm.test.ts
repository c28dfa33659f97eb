import { expect, it } from 'vitest';
import { Graph } from '../../src/graph/graph.js';
import { rmsNorm } from '../../src/ops/rms-norm.js';
import { describeOp, expectHadalError, runGraph } from '../support/op-case.js';
import { cases } from './rms-norm.cases.js';

describeOp('rms-norm', cases);

it('a row does not depend on the rows around it', async () => {
  const row = Array.from({ length: 37 }, (_, i) => Math.sin(i));
  const weight = { shape: [37], dtype: 'fp32' as const, data: row.map((v) => v + 2) };
  const run = async (rows: number) => {
    const data = Array.from({ length: rows }, (_, i) => row.map((v) => (i === rows - 1 ? v : v * i))).flat();
    const x = { shape: [rows, 37], dtype: 'fp32' as const, data };
    const [y] = await runGraph({ x, weight }, ({ x, weight }) => [rmsNorm(x!, weight!, 1e-6)]);
    return Array.from(y!.slice(-37));
  };
  expect(await run(999)).toEqual(await run(1));
});

it('names what does not fit', () => {
  const graph = new Graph();
  const x = graph.input('x', [2, 3], 'fp32');
  expectHadalError(() => rmsNorm(x, graph.input('w', [4], 'fp32'), 1e-6), 'HADAL_ERR_SHAPE', /weight.*\[3\].*\[4\]/);
  expectHadalError(() => rmsNorm(x, graph.input('i', [3], 'int32'), 1e-6), 'HADAL_ERR_DTYPE', /weight.*float.*int32/);
});
