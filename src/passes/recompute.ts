// Activation checkpointing. Chen et al. 2016, arXiv:1604.06174: forward values that are not kept are computed once more where
// backward needs them. Runs when all else is fused, so that what runs again is the same kernels on the same numbers, and
// results are the same bits; random ops are keyed by their inputs.
import type { Graph, Node, Value } from '../graph/graph.js';
import { reads, rootOf } from '../graph/reads.js';
import { prune } from './prune.js';
import { rewrite } from './rewrite.js';

/** Which values backward reads as forward left them; asked of values that own memory, never of views. */
export type Kept = (value: Value) => boolean;

/**
 * Lets backward read values that are computed anew, each once and right before it is first needed, from what is kept.
 *
 * @param kept - what {@link recomputable} says no to is kept in any case
 */
export function recompute(graph: Graph, kept: Kept): Graph {
  const { order, again } = recomputation(graph, kept);
  if (again.size === 0) return graph;
  const visited = new Set<Node>();
  const repeated = rewrite(
    graph,
    (node, { graph: target, of }) => {
      if (!visited.has(node)) {
        visited.add(node);
        return null;
      }
      // Those who come after read the copy; what is kept stays where it was.
      const inputs = node.inputs.map((input) => input && of(input));
      const { restore } = node.op;
      const made = target.differentiating(() =>
        isRestored(node, kept) && restore
          ? restore.apply(of(node.outputs[restore.output] as Value), inputs, node.attrs)
          : target.add(node.op, inputs, node.attrs),
      );
      return node.outputs.map((output, i) => (!node.op.isView && kept(output) ? of(output) : (made[i] as Value)));
    },
    order,
  );
  // What backward alone read is now computed there only.
  return prune(repeated);
}

/** What is computed anew: every node in the order it runs in, those that run again a second time. */
export function recomputation(graph: Graph, kept: Kept): { order: Node[]; again: Set<Node> } {
  const mayRunAgain = recomputable(graph);
  const isGone = (value: Value): boolean => {
    const root = rootOf(value);
    return mayRunAgain.has(root.node) && !kept(root);
  };
  const order: Node[] = [];
  const again = new Set<Node>();
  const need = (values: readonly Value[]) => {
    for (const value of values) {
      if (again.has(value.node) || !isGone(value)) continue;
      again.add(value.node);
      need(readsAgain(value.node, kept));
      order.push(value.node);
    }
  };
  for (const node of graph.nodes) {
    if (node.isBackward && !node.op.isView) need(reads(node));
    order.push(node);
  }
  return { order, again };
}

/** Nodes that may run a second time: forward ones that depend on data and state alone, and whose results nobody counts on. */
export function recomputable(graph: Graph): Set<Node> {
  const found = new Set<Node>();
  // What says how many rows of a value are in use is the same for all who read it.
  const extents = new Set(
    graph.nodes.flatMap((node) => node.outputs.map(({ extent }) => extent && rootOf(extent).node)),
  );
  const results = new Set([...graph.updates.values(), ...graph.outputs.values()].map((value) => rootOf(value).node));
  const afterBackward = new Set<Node>();
  for (const node of graph.nodes) {
    const read = reads(node);
    if (node.isBackward || read.some(({ node: maker }) => afterBackward.has(maker))) afterBackward.add(node);
    else if (node.queue !== 'compute' || node.predicate || node.op.isSource) continue;
    else if (!extents.has(node) && !results.has(node)) found.add(node);
  }
  return found;
}

/** What a node reads when it runs a second time. */
export function readsAgain(node: Node, kept: Kept): Value[] {
  const { restore } = node.op;
  if (!restore || !isRestored(node, kept)) return reads(node);
  return [node.outputs[restore.output] as Value, ...restore.inputs.map((i) => node.inputs[i] as Value)];
}

function isRestored({ op, outputs }: Node, kept: Kept): boolean {
  return op.restore !== undefined && kept(outputs[op.restore.output] as Value);
}
