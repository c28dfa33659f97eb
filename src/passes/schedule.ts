// A node runs as soon as it can where that frees more memory than it takes: gradients are added to their slots while backward
// goes on, instead of all being kept to its end. All else stays in the order it was traced in.
import type { Graph, Node, Value } from '../graph/graph.js';
import { rewrite } from './rewrite.js';

/** Shortens the lifetimes of values by running their last readers earlier. */
export function schedule(graph: Graph): Graph {
  const results = new Set([...graph.updates.values(), ...graph.outputs.values()].map(rootOf));
  const readers = new Map<Value, Set<Node>>();
  for (const node of graph.nodes) {
    for (const value of needs(node)) readers.set(value, (readers.get(value) ?? new Set()).add(node));
  }
  /** Of memory that the plan hands out: who is still to read it. */
  const waiting = new Map<Value, Set<Node>>();
  for (const node of graph.nodes) {
    if (node.op.isView) continue;
    for (const value of needs(node)) waiting.set(rootOf(value), (waiting.get(rootOf(value)) ?? new Set()).add(node));
  }

  const isTemporary = (value: Value) => !value.node.op.isSource && !results.has(value);
  const gain = (node: Node) => {
    const freed = [...new Set(needs(node).map(rootOf))].filter(
      (root) => isTemporary(root) && waiting.get(root)?.size === 1,
    );
    const taken = node.outputs.filter((output) => isTemporary(output) && waiting.has(output));
    return bytes(freed) - bytes(taken);
  };
  const movesWell = (node: Node) => node.op.isView || (isMovable(graph, node, waiting) && gain(node) > 0);

  const order: Node[] = [];
  const placed = new Set<Node>();
  const place = (node: Node) => {
    order.push(node);
    placed.add(node);
    if (!node.op.isView) for (const value of needs(node)) waiting.get(rootOf(value))?.delete(node);
  };
  for (const node of graph.nodes) {
    if (placed.has(node)) continue;
    place(node);
    const touched = [node];
    for (let last = touched.pop(); last; last = touched.pop()) {
      for (const value of [...last.outputs, ...needs(last)]) {
        for (const reader of readers.get(value) ?? []) {
          if (placed.has(reader) || !needs(reader).every((need) => placed.has(need.node)) || !movesWell(reader))
            continue;
          place(reader);
          touched.push(reader);
        }
      }
    }
  }
  return rewrite(graph, () => null, order);
}

/** A node that writes a slot stays behind those who read the slot's old content; what other queues do stays where it is. */
function isMovable(graph: Graph, node: Node, waiting: ReadonlyMap<Value, ReadonlySet<Node>>): boolean {
  if (node.queue !== 'compute' || node.predicate) return false;
  for (const [name, value] of graph.updates) {
    if (rootOf(value).node !== node) continue;
    const others = [...(waiting.get(graph.slots.get(name) as Value) ?? [])].filter((reader) => reader !== node);
    if (others.length > 0) return false;
  }
  return true;
}

function needs(node: Node): Value[] {
  const extents = node.outputs.map(({ extent }) => (extent?.node === node ? null : extent));
  return [...node.inputs, ...extents, node.predicate].filter((value) => value !== null);
}

function rootOf(value: Value): Value {
  let root = value;
  while (root.node.op.isView) root = root.node.inputs[0] as Value;
  return root;
}

const bytes = (values: readonly Value[]) => values.reduce((sum, value) => sum + value.bytes, 0);
