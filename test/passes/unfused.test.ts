// Graphs that look like what a pass rewrites and are not: each pass leaves them alone, or keeps what they mean.
import { expect, it } from 'vitest';
import { gradients } from '../../src/autodiff/gradients.js';
import { Graph, type Value } from '../../src/graph/graph.js';
import { verify } from '../../src/graph/verify.js';
import { add, cast, multiply } from '../../src/ops/elementwise.js';
import { groupedMatmulWeightGradient } from '../../src/ops/grouped-matmul.js';
import { matmul, matmulAccumulate } from '../../src/ops/matmul.js';
import { sum } from '../../src/ops/reduce.js';
import { rmsNorm } from '../../src/ops/rms-norm.js';
import { bound, broadcastTo, slice } from '../../src/ops/shape.js';
import { foldCasts } from '../../src/passes/fold-casts.js';
import { fuseAddends } from '../../src/passes/fuse-addends.js';
import { fuseResidualNorm } from '../../src/passes/fuse-residual-norm.js';
import { joinSlices } from '../../src/passes/join-slices.js';
import { narrow } from '../../src/passes/narrow.js';
import type { Pass } from '../../src/passes/pipeline.js';
import { prune } from '../../src/passes/prune.js';
import { plan } from '../../src/runtime/plan.js';
import { testDevice } from '../support/op-case.js';
import { uniformPrecision } from '../support/precision.js';

/** Names of what computes after a pass. */
function opsAfter(pass: Pass, build: (graph: Graph) => Value): string[] {
  const graph = new Graph();
  graph.output('y', build(graph));
  verify(graph);
  const made = prune(pass(graph));
  verify(made);
  return made.nodes.filter(({ op }) => op.kernel).map(({ op }) => op.name);
}

it('fuse-addends leaves whole numbers and what broadcasts over the groups of a product', () => {
  const numbers = (g: Graph) =>
    add(matmul(g.input('a', [4, 6], 'fp32'), g.input('b', [6, 5], 'fp32')), g.input('n', [4, 5], 'int32'));
  expect(opsAfter(fuseAddends, numbers)).toEqual(['matmul', 'add']);
  const grouped = (groups: number) => (g: Graph) => {
    const [a, b] = [g.input('a', [4, 6], 'fp32'), g.input('b', [4, 5], 'fp32')];
    const product = groupedMatmulWeightGradient(a, b, g.input('offsets', [groups + 1], 'int32'));
    return add(product, g.input('r', [groups === 1 ? 3 : 1, 6, 5], 'fp32'));
  };
  for (const groups of [1, 3])
    expect(opsAfter(fuseAddends, grouped(groups))).toEqual(['grouped-matmul-weight-gradient', 'add']);
});

it('fuse-addends leaves a product that is both terms', () => {
  const twice = (g: Graph) => {
    const product = matmul(g.input('a', [4, 6], 'fp32'), g.input('b', [6, 5], 'fp32'));
    return add(product, product);
  };
  expect(opsAfter(fuseAddends, twice)).toEqual(['matmul', 'add']);
});

it('fuse-residual-norm leaves a sum that is the weight, too', () => {
  const own = (g: Graph) => {
    const h = add(g.input('x', [6], 'fp32'), g.input('r', [6], 'fp32'));
    return rmsNorm(h, h, 1e-6);
  };
  expect(opsAfter(fuseResidualNorm, own)).toEqual(['add', 'rms-norm']);
});

it('fold-casts leaves casts to and from whole numbers', () => {
  const cut = (g: Graph) => cast(broadcastTo(g.input('x', [1, 4], 'fp32'), [3, 4], 'int32'), 'fp32');
  expect(opsAfter(foldCasts, cut)).toEqual(['broadcast', 'cast']);
  const rounded = (g: Graph) => cast(broadcastTo(g.input('x', [1, 4], 'fp32'), [3, 4]), 'int32');
  expect(opsAfter(foldCasts, rounded)).toEqual(['broadcast', 'cast']);
});

/** Gradient of x's halves, one of which is read as a row. */
function halves(g: Graph, cut: (whole: Value, at: number) => Value): Value {
  const [a, b] = [g.input('a', [4, 6], 'fp32'), g.input('b', [4, 6], 'fp32')];
  const of = (x: Value, at: number) => {
    const dy = cut(x, at);
    const loss = sum(multiply(slice(dy, 1, at, at + 3), 2), [0, 1]);
    return gradients(loss, [dy])[0] as Value;
  };
  return add(of(a, 0), of(b, 3));
}

it('join-slices leaves gradients of other shapes, and of other rows in use', () => {
  expect(opsAfter(joinSlices, (g) => halves(g, (x) => multiply(x, 1)))).toContain('concat');
  const row = (g: Graph) => halves(g, (x, at) => (at === 0 ? slice(x, 0, 0, 1) : multiply(x, 1)));
  expect(opsAfter(joinSlices, row)).not.toContain('concat');
  const bounded = (g: Graph) => {
    const rows = g.input('rows', [1], 'int32');
    return halves(g, (x, at) => (at === 0 ? multiply(x, 1) : bound(x, rows)));
  };
  expect(opsAfter(joinSlices, bounded)).not.toContain('concat');
});

it('narrow casts anew where what was cast may be skipped', () => {
  const graph = new Graph();
  const [x, w] = [graph.input('x', [4, 4], 'fp32'), graph.input('w', [4, 4], 'fp32')];
  const kept = sum(add(x, 1), [0], true);
  graph.slot('s', [4, 1], 'fp32');
  const wide = multiply(broadcastTo(kept, [4, 4]), 2);
  graph.predicated(graph.input('flag', [1], 'int32'), () =>
    graph.update('s', sum(multiply(matmul(wide, w), 1), [1], true)),
  );
  graph.output('y', matmul(wide, w));
  verify(graph);
  verify(narrow(graph, uniformPrecision('bf16')));
});

it('a product does not write over a row that it adds to every row', async () => {
  const graph = new Graph();
  const [a, b] = [cast(graph.slot('a', [2, 4], 'fp32'), 'bf16'), cast(graph.slot('b', [4, 8], 'fp32'), 'bf16')];
  const row = multiply(graph.slot('row', [8], 'fp32'), 2);
  graph.output('y', cast(matmulAccumulate(row, a, b, { outputDType: 'bf16' }), 'fp32'));
  const device = testDevice();
  const program = device.load(plan(graph, device.target));
  const slots = Object.fromEntries(
    program.slots.map(({ name, shape, dtype }) => [name, device.allocate(shape, dtype)]),
  );
  for (const name of ['a', 'b', 'row'] as const) await slots[name]?.write(new Float32Array(slots[name].size).fill(1));
  await device.run([{ program, slots, inputs: {} }]);
  expect([...((await slots.y?.toFloat32()) ?? [])]).toEqual(Array(16).fill(6));
  for (const tensor of Object.values(slots)) tensor.dispose();
});
