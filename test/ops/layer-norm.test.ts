import { expect, it } from 'vitest';
import { Graph } from '../../src/graph/graph.js';
import { layerNorm } from '../../src/ops/layer-norm.js';
import { describeOp, expectHadalError, runGraph } from '../support/op-case.js';
import { cases } from './layer-norm.cases.js';

describeOp('layer-norm', cases);

it('keeps its precision far away from zero', async () => {
  const data = Array.from({ length: 64 }, (_, i) => 1000 + (i % 2));
  const inputs = {
    x: { shape: [1, 64], dtype: 'fp32' as const, data },
    ones: { shape: [64], dtype: 'fp32' as const, data: data.map(() => 1) },
    zeros: { shape: [64], dtype: 'fp32' as const, data: data.map(() => 0) },
  };
  const [y] = await runGraph(inputs, ({ x, ones, zeros }) => [layerNorm(x!, ones!, zeros!, 1e-5)]);
  y!.forEach((v, i) => {
    expect(v).toBeCloseTo((i % 2 === 0 ? -0.5 : 0.5) / Math.sqrt(0.25 + 1e-5), 6);
  });
});

it('names what does not fit', () => {
  const graph = new Graph();
  const x = graph.input('x', [2, 3], 'fp32');
  const w = graph.input('w', [3], 'fp32');
  expectHadalError(() => layerNorm(x, w, graph.input('b', [4], 'fp32'), 1e-5), 'HADAL_ERR_SHAPE', /bias.*\[3\].*\[4\]/);
  expectHadalError(() => layerNorm(x, w, graph.input('h', [3], 'bf16'), 1e-5), 'HADAL_ERR_DTYPE', /bias.*fp32.*bf16/);
});
