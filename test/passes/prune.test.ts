import { expect, it } from 'vitest';
import { Graph } from '../../src/graph/graph.js';
import { verify } from '../../src/graph/verify.js';
import { add, exp, negate } from '../../src/ops/elementwise.js';
import { expertOrder, permute } from '../../src/ops/permute.js';
import { swiglu } from '../../src/ops/swiglu.js';
import { prune } from '../../src/passes/prune.js';

const names = (graph: Graph) => graph.nodes.map(({ op }) => op.name);

it('drops what neither an update nor an output depends on, and keeps what is declared', () => {
  const graph = new Graph();
  const [x, unread] = [graph.slot('x', [2], 'fp32'), graph.input('unread', [2], 'fp32')];
  exp(add(unread, 7));
  graph.update('x', negate(x));
  const pruned = prune(graph);
  verify(pruned);
  expect(names(pruned)).toEqual(['slot', 'input', 'negate']);
  expect(pruned.updates.get('x')?.node.op.name).toBe('negate');
});

it('keeps predicates and extents, with what they depend on', () => {
  const graph = new Graph();
  const x = graph.slot('x', [2], 'fp32');
  const flag = add(graph.input('flag', [1], 'int32'), graph.input('other', [1], 'int32'));
  graph.predicated(flag, () => graph.update('x', negate(x)));
  const order = expertOrder(graph.input('experts', [4, 2], 'int32'), { experts: 3 });
  graph.output('rows', swiglu(negate(permute(graph.input('tokens', [4, 8], 'fp32'), order))));
  const pruned = prune(graph);
  verify(pruned);
  expect(pruned.nodes.length).toBe(graph.nodes.length);
  expect(pruned.updates.get('x')?.node.predicate?.node.op.name).toBe('add');
  expect(pruned.outputs.get('rows')?.extent?.node.graph).toBe(pruned);
});
