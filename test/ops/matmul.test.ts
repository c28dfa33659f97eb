import { expect, it } from 'vitest';
import { gradients } from '../../src/autodiff/gradients.js';
import { Graph, type Value } from '../../src/graph/graph.js';
import { defineOp } from '../../src/ops/define-op.js';
import { multiply, square } from '../../src/ops/elementwise.js';
import { matmul, matmulAccumulate } from '../../src/ops/matmul.js';
import { sum } from '../../src/ops/reduce.js';
import { runPasses } from '../../src/passes/pipeline.js';
import { describeOp, expectHadalError, runGraph } from '../support/op-case.js';
import { Rng } from '../support/rng.js';
import { cases } from './matmul.cases.js';

describeOp('matmul', cases);

const normal = (shape: number[], seed: string) => {
  const rng = new Rng(seed);
  return {
    shape,
    dtype: 'fp32' as const,
    data: Float64Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => Math.fround(rng.normal())),
  };
};

/** x, of which only the first `extent` entries of dim 0 are in use. */
const boundedOp = defineOp<Record<never, never>, [x: Value, extent: Value], [Value]>({
  name: 'test-bounded',
  isView: true,
  infer: ([x, extent]) => [{ shape: x.shape, dtype: x.dtype, extent }],
});
const bounded = (x: Value, extent: Value) => boundedOp.apply([x, extent], {})[0];

it.each([
  { a: [2, 3], b: [4, 5], options: {}, says: /expected b of shape \[3, \?\], got fp32 \[4, 5\]/ },
  { a: [2, 3], b: [4, 5], options: { transposeB: true }, says: /expected b of shape \[\?, 3\]/ },
  { a: [2, 3, 4], b: [3, 4, 5], options: {}, says: /equal leading dims, or b of two dims/ },
  {
    a: [2, 3, 4],
    b: [3, 5],
    options: { transposeA: true },
    says: /untransposed a, got a fp32 \[2, 3, 4\], transposeA/,
  },
  { a: [3], b: [3, 5], options: {}, says: /expected matrices/ },
])('refuses a $a times b $b $options', ({ a, b, options, says }) => {
  const graph = new Graph();
  expectHadalError(
    () => matmul(graph.input('a', a, 'fp32'), graph.input('b', b, 'fp32'), options),
    'HADAL_ERR_SHAPE',
    says,
  );
});

it('refuses integers, and an accumulator of another shape', () => {
  const graph = new Graph();
  const a = graph.input('a', [2, 3], 'fp32');
  const ids = graph.input('ids', [3, 4], 'int32');
  const b = graph.input('b', [3, 4], 'fp32');
  expectHadalError(() => matmul(a, ids), 'HADAL_ERR_DTYPE', /\[matmul\] expected b of dtype float, got int32/);
  expectHadalError(() => matmulAccumulate(a, a, b), 'HADAL_ERR_SHAPE', /expected accumulator of shape \[2, 4\]/);
});

it('makes one product of all leading dims, and transposes nothing for the gradients', () => {
  const graph = new Graph();
  const x = graph.input('x', [2, 3, 4, 5], 'fp32');
  const w = graph.input('w', [6, 5], 'fp32');
  const loss = sum(square(matmul(x, w, { transposeB: true })), [0, 1, 2, 3]);
  for (const [i, gradient] of gradients(loss, [x, w]).entries()) graph.output(`d${i}`, gradient);
  const calls = runPasses(graph).nodes.filter((node) => node.op.kernel);
  const products = calls.filter((node) => node.op.name === 'matmul');
  const sizes = products.map(({ op, inputs, outputs, attrs }) => op.kernel?.(inputs, outputs, attrs).params);
  expect(sizes).toMatchObject([
    { batch: 1, m: 24, n: 6, k: 5 },
    { batch: 1, m: 24, n: 5, k: 6 },
    { batch: 1, m: 6, n: 5, k: 24 },
  ]);
  expect(calls.map((node) => node.op.name)).not.toContain('transpose');
});

it('reads only the rows in use: the others may hold anything', async () => {
  const x = normal([6, 3], 'x');
  const w = normal([4, 3], 'w');
  x.data.fill(Number.NaN, 4 * 3);
  const build = ({ x, w, extent }: Record<string, Value>) => {
    const rows = bounded(x as Value, extent as Value);
    const y = matmul(rows, w as Value, { transposeB: true });
    expect(y.extent).toBe(extent);
    return [y, matmul(y, x as Value, { transposeA: true })];
  };
  const [y, gradient] = await runGraph({ x, w, extent: { shape: [1], dtype: 'int32', data: [4] } }, build);
  const at = (list: Float64Array | undefined, i: number) => list?.[i] as number;
  for (let n = 0; n < 4; n++) {
    for (let row = 0; row < 4; row++) {
      const expected = [0, 1, 2].reduce((total, k) => total + at(x.data, row * 3 + k) * at(w.data, n * 3 + k), 0);
      expect(at(y, row * 4 + n)).toBeCloseTo(expected, 5);
    }
    for (let k = 0; k < 3; k++) {
      const expected = [0, 1, 2, 3].reduce((total, row) => total + at(y, row * 4 + n) * at(x.data, row * 3 + k), 0);
      expect(at(gradient, n * 3 + k)).toBeCloseTo(expected, 4);
    }
  }
});

it('serves factors of different dtypes', async () => {
  const a = { ...normal([3, 5], 'a'), dtype: 'bf16' as const };
  const b = { shape: [5, 2], dtype: 'fp16' as const, data: Float64Array.from({ length: 10 }, (_, i) => i / 4) };
  a.data.forEach((_, i) => {
    a.data[i] = (i % 7) / 8 - 0.25;
  });
  const [c] = await runGraph({ a, b }, ({ a, b }) => [matmul(a as Value, b as Value, { outputDType: 'fp32' })]);
  for (let i = 0; i < 3; i++) {
    for (let j = 0; j < 2; j++) {
      const expected = [0, 1, 2, 3, 4].reduce(
        (total, k) => total + (a.data[i * 5 + k] as number) * (b.data[k * 2 + j] as number),
        0,
      );
      expect(c?.[i * 2 + j]).toBe(expected);
    }
  }
});

it('adds to an accumulator again and again, in its memory', async () => {
  const inputs = { sum: normal([4, 5], 'sum'), a: normal([4, 3], 'a'), b: normal([3, 5], 'b') };
  const [total, product] = await runGraph(inputs, ({ sum, a, b }) => {
    const once = matmulAccumulate(sum as Value, a as Value, b as Value);
    return [matmulAccumulate(once, a as Value, b as Value), matmul(a as Value, b as Value)];
  });
  for (const [i, x] of (total as Float64Array).entries()) {
    expect(x).toBeCloseTo((inputs.sum.data[i] as number) + 2 * (product?.[i] as number), 5);
  }
});

it('gives the same bits every time', async () => {
  const inputs = { a: normal([5, 70, 90], 'a'), b: normal([5, 80, 90], 'b') };
  const build = ({ a, b }: Record<string, Value>) => [
    multiply(matmul(a as Value, b as Value, { transposeB: true }), 1),
  ];
  const first = await runGraph(inputs, build);
  for (let i = 0; i < 3; i++) expect(await runGraph(inputs, build)).toEqual(first);
});
