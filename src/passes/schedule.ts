// A node runs as soon as it can where that frees more memory than it takes: gradients are added to their slots while backward
// goes on, instead of all being kept to its end. All else stays in the order it was traced in.
import type { Graph, Node, Value } from '../graph/graph.js';
import { reads, rootOf } from '../graph/reads.js';
import { rewrite } from './rewrite.js';

/** Shortens the lifetimes of values by running their last readers earlier. */
export function schedule(graph: Graph): Graph {
  const results = new Set([...graph.updates.values(), ...graph.outputs.values()].map(rootOf));
  const readers = new Map<Value, Set<Node>>();
  for (const node of graph.nodes) {
    for (const value of reads(node)) readers.set(value, (readers.get(value) ?? new Set()).add(node));
  }
  /** Of memory that the plan hands out: who is still to read it. */
  const waiting = new Map<Value, Set<Node>>();
  for (const node of graph.nodes) {
    if (node.op.isView) continue;
    for (const value of reads(node)) waiting.set(rootOf(value), (waiting.get(rootOf(value)) ?? new Set()).add(node));
  }

  const written = slotsByWriter(graph);
  const isTemporary = (value: Value) => !value.node.op.isSource && !results.has(value);
  const gain = (node: Node) => {
    const freed = [...new Set(reads(node).map(rootOf))].filter(
      (root) => isTemporary(root) && waiting.get(root)?.size === 1,
    );
    const taken = node.outputs.filter((output) => isTemporary(output) && waiting.has(output));
    return bytes(freed) - bytes(taken);
  };
  const movesWell = (node: Node) => node.op.isView || (isMovable(node, written, waiting) && gain(node) > 0);

  const order: Node[] = [];
  const placed = new Set<Node>();
  const place = (node: Node) => {
    order.push(node);
    placed.add(node);
    if (!node.op.isView) for (const value of reads(node)) waiting.get(rootOf(value))?.delete(node);
  };
  // Nothing waits for what is there from the beginning.
  for (const node of graph.nodes) if (node.op.isSource && !node.predicate) place(node);
  for (const node of graph.nodes) {
    if (placed.has(node)) continue;
    place(node);
    const touched = [node];
    for (let last = touched.pop(); last; last = touched.pop()) {
      for (const value of [...last.outputs, ...reads(last)]) {
        for (const reader of [...(readers.get(value) ?? []), ...(waiting.get(rootOf(value)) ?? [])]) {
          if (placed.has(reader) || !reads(reader).every(({ node: maker }) => placed.has(maker)) || !movesWell(reader))
            continue;
          place(reader);
          touched.push(reader);
        }
      }
    }
  }
  return rewrite(graph, () => null, order);
}

/** A node that writes slots stays behind those who read their old content; what other queues do stays where it is. */
function isMovable(
  node: Node,
  written: ReadonlyMap<Node, readonly Value[]>,
  waiting: ReadonlyMap<Value, ReadonlySet<Node>>,
): boolean {
  const isLastReader = (slot: Value) => [...(waiting.get(slot) ?? [])].every((reader) => reader === node);
  return node.queue === 'compute' && !node.predicate && (written.get(node) ?? []).every(isLastReader);
}

/** The slots that a node's results are written to. */
function slotsByWriter({ updates, slots }: Graph): Map<Node, Value[]> {
  const found = new Map<Node, Value[]>();
  for (const [name, value] of updates) {
    const { node } = rootOf(value);
    found.set(node, [...(found.get(node) ?? []), slots.get(name) as Value]);
  }
  return found;
}

const bytes = (values: readonly Value[]) => values.reduce((sum, value) => sum + value.bytes, 0);
