import type { Graph, Node, Value } from '../graph/graph.js';
import { rewrite } from './rewrite.js';

/** Drops nodes that neither an update nor an output depends on. Declared inputs and slots stay: they are the interface. */
export function prune(graph: Graph): Graph {
  const live = new Set<Node>();
  const visit = (value: Value | null) => {
    if (value) live.add(value.node);
  };
  for (const value of [...graph.updates.values(), ...graph.outputs.values()]) visit(value);
  for (let id = graph.nodes.length - 1; id >= 0; id--) {
    const node = graph.nodes[id] as Node;
    if (!live.has(node)) continue;
    for (const input of node.inputs) visit(input);
    for (const output of node.outputs) visit(output.extent);
    visit(node.predicate);
  }
  const isInterface = (node: Node) => node.op.isSource === true && node.op.name !== 'constant';
  return rewrite(graph, (node) => (live.has(node) || isInterface(node) ? null : 'drop'));
}
