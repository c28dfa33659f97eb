import { Graph, type Node, type Value } from '../graph/graph.js';

/** How a pass sees the graph it builds. */
export interface Rewriter {
  readonly graph: Graph;
  /** The new value of an old one. */
  of(value: Value): Value;
  /** Says what becomes of a value whose node was dropped. */
  set(value: Value, made: Value): void;
}

/**
 * Copies a graph node by node.
 *
 * @param visit - returns the new outputs of a node, or null to copy it as it is, or 'drop' when nobody uses it
 * @param order - every node, its inputs before it; default: the order they stand in
 */
export function rewrite(
  source: Graph,
  visit: (node: Node, rewriter: Rewriter) => readonly Value[] | null | 'drop',
  order: readonly Node[] = source.nodes,
): Graph {
  const graph = new Graph();
  const map = new Map<Value, Value>();
  const of = (value: Value) => map.get(value) as Value;
  for (const node of order) {
    const before = graph.nodes.length;
    const made = visit(node, { graph, of, set: (value, made) => map.set(value, made) });
    const outputs = made === 'drop' ? [] : (made ?? copy(node, graph, of));
    for (let id = before; id < graph.nodes.length; id++) {
      const copied = graph.nodes[id] as Node;
      copied.scope ||= node.scope;
      // What comes from outside is there, whatever runs.
      copied.predicate = node.predicate && !copied.op.isSource ? of(node.predicate) : null;
      // What was made for another queue stays on it.
      if (copied.queue === 'compute') copied.queue = node.queue;
      copied.isBackward ||= node.isBackward;
    }
    for (const [i, output] of outputs.entries()) map.set(node.outputs[i] as Value, output);
  }
  for (const [name, value] of source.updates) graph.update(name, of(value));
  for (const [name, value] of source.outputs) graph.output(name, of(value));
  for (const [name, value] of source.watched) {
    const kept = map.get(value);
    if (kept) graph.watched.set(name, kept);
  }
  return graph;
}

function copy(node: Node, graph: Graph, of: (value: Value) => Value): readonly Value[] {
  const { name, shape, dtype } = node.attrs as { name: string; shape: number[]; dtype: Value['dtype'] };
  if (node.op.name === 'input') return [graph.input(name, shape, dtype)];
  if (node.op.name === 'slot') return [graph.slot(name, shape, dtype)];
  return graph.add(
    node.op,
    node.inputs.map((input) => input && of(input)),
    node.attrs,
  );
}
