import { expect, it } from 'vitest';
import { gradients } from '../../src/autodiff/gradients.js';
import { Graph, type Value } from '../../src/graph/graph.js';
import { add, cast, multiply } from '../../src/ops/elementwise.js';
import { linearCrossEntropy } from '../../src/ops/linear-cross-entropy.js';
import { sum } from '../../src/ops/reduce.js';
import { runPasses } from '../../src/passes/pipeline.js';
import { compile } from '../../src/runtime/compile.js';
import { compare, relativeNorm, roundTo } from '../support/compare.js';
import { lowerAll } from '../support/lower-all.js';
import { describeOp, expectHadalError, runGraph } from '../support/op-case.js';
import { Rng } from '../support/rng.js';
import { cases } from './linear-cross-entropy.cases.js';

describeOp('linear-cross-entropy', cases);

const rng = new Rng('linear-cross-entropy');
const normal = (shape: [number, number]) => ({
  shape,
  dtype: 'fp32' as const,
  data: Float64Array.from({ length: shape[0] * shape[1] }, () => Math.fround(rng.normal())),
});
const someInputs = (labels: number[], vocab = 7, dim = 3) => ({
  hidden: normal([labels.length, dim]),
  weight: normal([vocab, dim]),
  labels: { shape: [labels.length], dtype: 'int32' as const, data: labels },
  scale: { shape: [1], dtype: 'fp32' as const, data: [0.5] },
});
const lossOf = ({ hidden, weight, labels, scale }: Record<string, Value>, options = {}) =>
  linearCrossEntropy(hidden as Value, weight as Value, labels as Value, scale as Value, options);

it.each([7, -1, -99])('ends the step at label %i of a vocabulary of 7', async (label) => {
  await expect(runGraph(someInputs([0, label, 3]), (values) => [lossOf(values).loss])).rejects.toMatchObject({
    code: 'HADAL_ERR_RUN',
    message: expect.stringContaining(`expected labels in 0..6 or -100, got ${label} in row 1`),
  });
});

it('gives zeros when every label is ignored', async () => {
  const results = await runGraph(someInputs([-100, -100]), (values) => {
    const { loss, losses } = lossOf(values, { zLoss: 0.1 });
    return [loss, losses, ...gradients(loss, [values.hidden as Value, values.weight as Value])];
  });
  for (const result of results) expect([...result].every((x) => x === 0)).toBe(true);
});

it('hands on the gradients of the forward pass untouched when the loss is what is differentiated', () => {
  const graph = new Graph();
  const values = {
    hidden: graph.input('hidden', [4, 3], 'fp32'),
    weight: graph.input('weight', [7, 3], 'fp32'),
    labels: graph.input('labels', [4], 'int32'),
    scale: graph.input('scale', [1], 'fp32'),
  };
  const { loss } = lossOf(values);
  const [dhidden, dweight] = gradients(loss, [values.hidden, values.weight]) as [Value, Value];
  graph.output('dhidden', dhidden);
  graph.output('dweight', dweight);
  expect(
    runPasses(graph)
      .nodes.filter((node) => node.op.kernel)
      .map((node) => node.op.name),
  ).toEqual(['linear-cross-entropy']);
});

it('gives the gradient of a bf16 weight in fp32, unrounded, where that is asked for', async () => {
  const inputs = someInputs(
    Array.from({ length: 300 }, (_, i) => (i * 37) % 2500),
    2500,
    5,
  );
  const dweightOf = (values: Record<string, Value>) =>
    cast(gradients(lossOf(values).loss, [values.weight as Value])[0] as Value, 'fp32');
  const half = (name: 'hidden' | 'weight') => {
    const { shape, data } = inputs[name];
    return { shape, dtype: 'bf16' as const, data: data.map((x) => roundTo('bf16', x)) };
  };
  const narrow = { ...inputs, hidden: half('hidden'), weight: half('weight') };
  const wide = {
    ...inputs,
    hidden: { ...narrow.hidden, dtype: 'fp32' as const },
    weight: { ...narrow.weight, dtype: 'fp32' as const },
  };
  const [got] = await runGraph(narrow, (values) => [dweightOf(values)]);
  const [expected] = await runGraph(wide, (values) => [dweightOf(values)]);
  expect(relativeNorm(got as Float64Array, expected as Float64Array)).toBeLessThan(4e-3);
  expect([...(got as Float64Array)].filter((x) => x !== roundTo('bf16', x)).length).toBeGreaterThan(10_000);
});

it('keeps a block of logits that are all −∞ out of the sum', async () => {
  const [rows, vocab] = [2, 2500];
  // Columns 0 to 2047 are the first block: their logits are −∞.
  const weight = Float64Array.from({ length: vocab }, (_, i) => (i < 2048 ? Number.NEGATIVE_INFINITY : i % 3));
  const inputs = {
    hidden: { shape: [rows, 1], dtype: 'fp32' as const, data: [1, 2] },
    weight: { shape: [vocab, 1], dtype: 'fp32' as const, data: weight },
    labels: { shape: [rows], dtype: 'int32' as const, data: [2100, 2101] },
    scale: { shape: [1], dtype: 'fp32' as const, data: [1] },
  };
  const [losses] = await runGraph(inputs, (values) => [lossOf(values).losses]);
  const expected = [1, 2].map((h, row) => {
    const z = [...weight].map((w) => h * w);
    return Math.log(z.reduce((total, x) => total + Math.exp(x), 0)) - (z[2100 + row] as number);
  });
  compare('losses', losses as Float64Array, expected, { allowed: 1e-5 });
});

it('never holds the logits of all rows', () => {
  const graph = new Graph();
  const [rows, vocab, dim] = [4096, 32768, 8];
  const values = {
    hidden: graph.input('hidden', [rows, dim], 'fp32'),
    weight: graph.input('weight', [vocab, dim], 'fp32'),
    labels: graph.input('labels', [rows], 'int32'),
    scale: graph.input('scale', [1], 'fp32'),
  };
  const [dhidden, dweight] = gradients(lossOf(values).loss, [values.hidden, values.weight]) as [Value, Value];
  graph.output('dhidden', dhidden);
  graph.output('dweight', dweight);
  expect(compile(graph, 2).arenaBytes).toBeLessThan((rows * vocab * 4) / 16);
});

it('has the Hessian-vector product of its lowered form', async () => {
  const inputs = { ...someInputs([2, -100, 6, 0, 2]), v: normal([5, 3]), u: normal([7, 3]) };
  const product = (values: Record<string, Value>) => {
    const wrt = [values.hidden as Value, values.weight as Value];
    const { loss } = lossOf(values, { labelSmoothing: 0.1, zLoss: 0.01 });
    const [dhidden, dweight] = gradients(loss, wrt) as [Value, Value];
    const along = (gradient: Value, direction: Value) => sum(multiply(gradient, direction), [0, 1]);
    return gradients(add(along(dhidden, values.v as Value), along(dweight, values.u as Value)), wrt);
  };
  const first = (values: Record<string, Value>) => {
    const { loss } = lossOf(values, { labelSmoothing: 0.1, zLoss: 0.01 });
    return gradients(loss, [values.hidden as Value, values.weight as Value]);
  };
  const fused = await runGraph(inputs, product);
  const lowered = await runGraph(inputs, product, lowerAll);
  // Central differences of the gradient along (v, u).
  const step = 1e-2;
  const shifted = async (by: number) => {
    const move = (x: typeof inputs.v, direction: typeof inputs.v) => ({
      ...x,
      data: x.data.map((value, i) => value + by * (direction.data[i] as number)),
    });
    return runGraph({ ...inputs, hidden: move(inputs.hidden, inputs.v), weight: move(inputs.weight, inputs.u) }, first);
  };
  const [after, before] = [await shifted(step), await shifted(-step)];
  for (const i of [0, 1]) {
    const differences = (after[i] as Float64Array).map((x, j) => (x - (before[i]?.[j] as number)) / (2 * step));
    compare('fused', fused[i] as Float64Array, differences, { allowed: 2e-3 });
    compare('fused against lowered', fused[i] as Float64Array, lowered[i] as Float64Array, { allowed: 1e-5 });
    expect(Math.max(...differences.map(Math.abs))).toBeGreaterThan(0.1);
  }
});

it('refuses shapes and options that make no sense', () => {
  const graph = new Graph();
  const values = {
    hidden: graph.input('hidden', [4, 3], 'fp32'),
    weight: graph.input('weight', [7, 3], 'fp32'),
    labels: graph.input('labels', [4], 'int32'),
    scale: graph.input('scale', [1], 'fp32'),
  };
  const short = { ...values, labels: graph.input('short', [3], 'int32') };
  expectHadalError(() => lossOf(short), 'HADAL_ERR_SHAPE', /expected labels of shape \[4\], got int32 \[3\]/);
  const floats = { ...values, labels: graph.input('floats', [4], 'fp32') };
  expectHadalError(() => lossOf(floats), 'HADAL_ERR_DTYPE', /expected labels of dtype int32/);
  expectHadalError(
    () => lossOf(values, { labelSmoothing: 1.5 }),
    'HADAL_ERR_CONFIG',
    /expected labelSmoothing in 0\.\.1/,
  );
});
