import { expect, it } from 'vitest';
import { gradients } from '../../src/autodiff/gradients.js';
import { Graph, type Value } from '../../src/graph/graph.js';
import { addLayerNorm, layerNorm } from '../../src/ops/layer-norm.js';
import { sumOfSquares } from '../../src/ops/reduce.js';
import { lowerAll } from '../support/lower-all.js';
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

for (const dtype of ['fp32', 'bf16', 'fp16'] as const) {
  it(`gives the bits of the addition and the norm one after the other, ${dtype}`, async () => {
    const random = (size: number, seed: number) => Array.from({ length: size }, (_, i) => Math.sin(i * seed));
    const inputs = {
      x: { shape: [9, 70], dtype, data: random(630, 1.1) },
      residual: { shape: [9, 70], dtype, data: random(630, 0.7) },
      weight: { shape: [70], dtype: 'fp32' as const, data: random(70, 2) },
      bias: { shape: [70], dtype: 'fp32' as const, data: random(70, 3) },
    };
    const build = ({ x, residual, weight, bias }: Record<string, Value>) => [
      ...addLayerNorm(x!, residual!, weight!, bias!, 1e-5),
    ];
    expect(await runGraph(inputs, build)).toEqual(await runGraph(inputs, build, lowerAll));
  });
}

it('passes the gradient of the sum on where nobody uses the norm', async () => {
  const inputs = {
    x: { shape: [2, 3], dtype: 'fp32' as const, data: [1, 2, 3, 4, 5, 6] },
    weight: { shape: [3], dtype: 'fp32' as const, data: [1, 1, 1] },
  };
  const [dx] = await runGraph(inputs, ({ x, weight }) => {
    const [, , , total] = addLayerNorm(x!, x!, weight!, weight!, 1e-5);
    return gradients(sumOfSquares(total, [0, 1]), [x!]);
  });
  expect(Array.from(dx!)).toEqual([8, 16, 24, 32, 40, 48]);
});

it('names what does not fit', () => {
  const graph = new Graph();
  const x = graph.input('x', [2, 3], 'fp32');
  const w = graph.input('w', [3], 'fp32');
  expectHadalError(() => layerNorm(x, w, graph.input('b', [4], 'fp32'), 1e-5), 'HADAL_ERR_SHAPE', /bias.*\[3\].*\[4\]/);
  expectHadalError(() => layerNorm(x, w, graph.input('h', [3], 'bf16'), 1e-5), 'HADAL_ERR_DTYPE', /bias.*fp32.*bf16/);
  const narrow = graph.input('narrow', [2, 3], 'bf16');
  const tall = graph.input('tall', [3, 3], 'fp32');
  expectHadalError(() => addLayerNorm(x, narrow, w, w, 1e-5), 'HADAL_ERR_DTYPE', /residual.*fp32.*bf16/);
  expectHadalError(() => addLayerNorm(x, tall, w, w, 1e-5), 'HADAL_ERR_SHAPE', /residual.*\[2, 3\].*\[3, 3\]/);
});
