import { expect, it } from 'vitest';
import { Graph } from '../../src/graph/graph.js';
import { verify } from '../../src/graph/verify.js';
import { embedding } from '../../src/ops/embedding.js';
import { linearCrossEntropy } from '../../src/ops/linear-cross-entropy.js';
import { matmul } from '../../src/ops/matmul.js';
import { transpose } from '../../src/ops/shape.js';
import { applyFactors } from '../../src/passes/apply-factors.js';
import { prune } from '../../src/passes/prune.js';

/** Shapes of what is computed, once factors are applied, by op. */
function applied(graph: Graph): [string, string][] {
  const made = prune(applyFactors(graph));
  verify(made);
  return made.nodes
    .filter(({ op }) => !op.isSource)
    .map(({ op, outputs }) => [op.name, outputs[0]?.shape.join('×') ?? '']);
}

/** A weight [M, N] of rank 2. */
function weight(graph: Graph, rows: number, columns: number) {
  return matmul(graph.slot('left', [rows, 2], 'fp32'), graph.slot('right', [2, columns], 'fp32'));
}

it.each([
  ['as linear layers take it', true, [8, 6]],
  ['as GPT-2 does', false, [6, 8]],
] as const)('applies the factors one after the other, %s', (_, transposeB, [rows, columns]) => {
  const graph = new Graph();
  const x = graph.input('x', [3, 5, 6], 'fp32');
  graph.output('y', matmul(x, weight(graph, rows, columns), { transposeB }));
  expect(applied(graph)).toEqual([
    ['matmul', '3×5×2'],
    ['matmul', '3×5×8'],
  ]);
});

it('looks rows of the left factor up, but for so many ids that the table is less work', () => {
  const lookup = (ids: number) => {
    const graph = new Graph();
    graph.output('y', embedding(weight(graph, 20, 6), graph.input('ids', [ids], 'int32')));
    return applied(graph);
  };
  expect(lookup(19)).toEqual([
    ['embedding', '19×2'],
    ['matmul', '19×6'],
  ]);
  expect(lookup(20)).toEqual([
    ['matmul', '20×6'],
    ['embedding', '20×6'],
  ]);
});

it('takes the loss over the left factor, unless gradients of it are there already', () => {
  const traced = (readsGradient: boolean) => {
    const graph = new Graph();
    const head = weight(graph, 20, 6);
    const hidden = graph.input('hidden', [9, 6], 'fp32');
    const labels = graph.input('labels', [9], 'int32');
    const { loss } = linearCrossEntropy(hidden, head, labels, graph.input('scale', [1], 'fp32'));
    graph.output('loss', loss);
    if (readsGradient) graph.output('dhidden', loss.node.outputs[1] as typeof loss);
    return applied(graph);
  };
  expect(traced(false).map(([, shape]) => shape)).toEqual(['9×2', '1']);
  expect(traced(true).map(([, shape]) => shape)).toEqual(['20×6', '1']);
});

it('leaves products of what is computed, and weights that something needs whole', () => {
  const graph = new Graph();
  const a = graph.input('a', [4, 5, 2], 'fp32');
  const activations = matmul(a, graph.input('b', [4, 2, 7], 'fp32'));
  graph.output('activations', matmul(graph.input('x', [4, 3, 7], 'fp32'), activations, { transposeB: true }));
  graph.output('whole', matmul(graph.input('z', [3, 8], 'fp32'), transpose(weight(graph, 6, 8), [1, 0])));
  const before = graph.nodes.length;
  expect(applied(graph)).toHaveLength(before - graph.inputs.size - graph.slots.size);
});
