import { expect, it } from 'vitest';
import { gradients } from '../../src/autodiff/gradients.js';
import { Graph, type Value } from '../../src/graph/graph.js';
import { sumOfSquares } from '../../src/ops/reduce.js';
import { addRmsNorm, rmsNorm } from '../../src/ops/rms-norm.js';
import { lowerAll } from '../support/lower-all.js';
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

for (const dtype of ['fp32', 'bf16', 'fp16'] as const) {
  it(`gives the bits of the addition and the norm one after the other, ${dtype}`, async () => {
    const random = (size: number, seed: number) => Array.from({ length: size }, (_, i) => Math.sin(i * seed));
    const inputs = {
      x: { shape: [9, 70], dtype, data: random(630, 1.1) },
      residual: { shape: [9, 70], dtype, data: random(630, 0.7) },
      weight: { shape: [70], dtype: 'fp32' as const, data: random(70, 2) },
    };
    const build = ({ x, residual, weight }: Record<string, Value>) => [...addRmsNorm(x!, residual!, weight!, 1e-6)];
    expect(await runGraph(inputs, build)).toEqual(await runGraph(inputs, build, lowerAll));
  });
}

it('passes the gradient of the sum on where nobody uses the norm', async () => {
  const inputs = {
    x: { shape: [2, 3], dtype: 'fp32' as const, data: [1, 2, 3, 4, 5, 6] },
    weight: { shape: [3], dtype: 'fp32' as const, data: [1, 1, 1] },
  };
  const [dx] = await runGraph(inputs, ({ x, weight }) => {
    const [, , total] = addRmsNorm(x!, x!, weight!, 1e-6);
    return gradients(sumOfSquares(total, [0, 1]), [x!]);
  });
  expect(Array.from(dx!)).toEqual([8, 16, 24, 32, 40, 48]);
});

it('names what does not fit', () => {
  const graph = new Graph();
  const x = graph.input('x', [2, 3], 'fp32');
  expectHadalError(() => rmsNorm(x, graph.input('w', [4], 'fp32'), 1e-6), 'HADAL_ERR_SHAPE', /weight.*\[3\].*\[4\]/);
  const weight = graph.input('ok', [3], 'fp32');
  const narrow = graph.input('narrow', [2, 3], 'bf16');
  const tall = graph.input('tall', [3, 3], 'fp32');
  expectHadalError(() => addRmsNorm(x, narrow, weight, 1e-6), 'HADAL_ERR_DTYPE', /residual.*fp32.*bf16/);
  expectHadalError(() => addRmsNorm(x, tall, weight, 1e-6), 'HADAL_ERR_SHAPE', /residual.*\[2, 3\].*\[3, 3\]/);
  expectHadalError(() => rmsNorm(x, graph.input('i', [3], 'int32'), 1e-6), 'HADAL_ERR_DTYPE', /weight.*float.*int32/);
});
