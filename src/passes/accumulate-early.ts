// A sum into a slot that only itself reads (a gradient over micro-batches) runs as soon as its terms are there, so that
// the terms of all slots need not be in memory at once.
import type { Graph, Node, Value } from '../graph/graph.js';
import { rewrite } from './rewrite.js';

/** Moves sums into slots forward. */
export function accumulateEarly(graph: Graph): Graph {
  const early = new Set<Node>();
  const readers = new Map<Value, number>();
  for (const { inputs } of graph.nodes) {
    for (const input of new Set(inputs)) if (input) readers.set(input, (readers.get(input) ?? 0) + 1);
  }
  for (const [name, value] of graph.updates) {
    const slot = graph.slots.get(name) as Value;
    const { op, predicate, inputs } = value.node;
    const isSum = (op.isElementwise || op.inPlace) && !predicate && inputs.includes(slot);
    if (isSum && readers.get(slot) === 1) early.add(value.node);
  }
  if (early.size === 0) return graph;

  const order: Node[] = [];
  const placed = new Set<Node>();
  const place = (node: Node) => {
    order.push(node);
    placed.add(node);
  };
  const waiting = new Map<Node, Node[]>();
  for (const node of early) {
    for (const input of node.inputs) {
      if (input) waiting.set(input.node, [...(waiting.get(input.node) ?? []), node]);
    }
  }
  for (const node of graph.nodes) {
    if (!placed.has(node)) place(node);
    for (const sum of waiting.get(node) ?? []) {
      const isReady = sum.inputs.every((input) => !input || placed.has(input.node));
      if (isReady && !placed.has(sum)) place(sum);
    }
  }
  return rewrite(graph, () => null, order);
}
