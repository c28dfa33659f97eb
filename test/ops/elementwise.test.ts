import { expect, it } from 'vitest';
import { Graph, type Value } from '../../src/graph/graph.js';
import * as ew from '../../src/ops/elementwise.js';
import { add, cast, exp, multiply } from '../../src/ops/elementwise.js';
import { runPasses } from '../../src/passes/pipeline.js';
import { describeOp, expectHadalError, runGraph } from '../support/op-case.js';
import { cases } from './elementwise.cases.js';

describeOp('elementwise', cases);

it('refuses shapes that do not broadcast', () => {
  const graph = new Graph();
  const a = graph.input('a', [2, 3], 'fp32');
  const b = graph.input('b', [4], 'fp32');
  expectHadalError(
    () => add(a, b),
    'HADAL_ERR_SHAPE',
    /\[add\] expected shapes that broadcast, got \[2, 3\] and \[4\]/,
  );
});

it('fuses a chain into one expression with the same result', async () => {
  const inputs = {
    x: { shape: [100], dtype: 'fp32' as const, data: Array.from({ length: 100 }, (_, i) => i / 50 - 1) },
  };
  const build = (values: Record<string, never>) => {
    const { x } = values as { x: never };
    return [multiply(add(exp(x), 1), add(x, 2))];
  };
  const [fused] = await runGraph(inputs, build as never);
  const plain = inputs.x.data.map((x) => Math.fround((Math.exp(x) + 1) * (x + 2)));
  for (const [i, y] of plain.entries()) expect(fused?.[i]).toBeCloseTo(y, 5);

  const graph = new Graph();
  const x = graph.input('x', [100], 'fp32');
  graph.output('y', multiply(add(exp(x), 1), add(x, 2)));
  expect(
    runPasses(graph)
      .nodes.filter((node) => node.op.kernel)
      .map((node) => node.op.name),
  ).toEqual(['fused-elementwise']);
});

it('keeps int32 numbers beyond 2^24 exact when they are only moved', async () => {
  const big = 2 ** 30 + 1;
  const [y] = await runGraph({ x: { shape: [2], dtype: 'int32', data: [big, -big] } }, ({ x }) => [
    cast(x as never, 'int32'),
  ]);
  expect([...(y as Float64Array)]).toEqual([big, -big]);
});

it('tanh and GELU keep small numbers, signs, NaN and infinity', async () => {
  const data = [0, -0, 1e-30, -1e-30, 3e-4, -3e-4, 0.25, -12, 12, 1e30, -1e30, Infinity, -Infinity, Number.NaN];
  const [tanh, gelu, slope] = await runGraph({ x: { shape: [data.length], dtype: 'fp32', data } }, ({ x }) => [
    ew.tanh(x as Value),
    ew.gelu(x as Value),
    ew.geluSlope(x as Value),
  ]);
  data.forEach((given, i) => {
    const x = Math.fround(given);
    const want = Math.tanh(x);
    if (Number.isNaN(x) || x === 0) expect(tanh?.[i]).toBe(want);
    else expect(Math.abs((tanh?.[i] as number) / want - 1), `tanh ${x}`).toBeLessThan(3e-7);
  });
  const at = (x: number) => data.findIndex((v) => Object.is(v, x));
  expect([0, 1e30, -1e30, Infinity, Number.NaN].map((x) => gelu?.[at(x)])).toEqual([
    0,
    Math.fround(1e30),
    -0,
    Infinity,
    Number.NaN,
  ]);
  expect((gelu?.[at(-1e-30)] as number) / -5e-31).toBeCloseTo(1, 6);
  expect([0, 12, 1e30, Infinity, Number.NaN].map((x) => slope?.[at(x)])).toEqual([0.5, 1, 1, 1, Number.NaN]);
  for (const x of [-12, -1e30, -Infinity]) expect(Math.abs(slope?.[at(x)] as number), `slope ${x}`).toBeLessThan(1e-30);
});
