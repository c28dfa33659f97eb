// When the computation has surely waited for what other queues do.
import { bytesOfAll } from '../graph/cost.js';
import type { Graph, Node, Value } from '../graph/graph.js';

/** By node on another queue. */
export interface Waits {
  /** The node before which the computation has waited for it; none: the end of the program. */
  waited: ReadonlyMap<Node, number>;
  /** Which earlier one must be done before it begins. */
  before: ReadonlyMap<Node, Node>;
}

/**
 * So many instructions on another queue that make less of what they are given are under way at once; the next one waits. One
 * travels while the next one's tensors are computed, and what was given is not held until all have travelled.
 */
const mostUnderWay = 2;

/** @param readersOf - who reads a value, through views as well */
export function findWaits({ nodes }: Graph, readersOf: (value: Value) => readonly Node[]): Waits {
  const waited = new Map<Node, number>();
  const before = new Map<Node, Node>();
  const waitedAt = (node: Node) => waited.get(node) ?? nodes.length;
  const isShrinking = ({ inputs, outputs }: Node) => bytesOfAll(inputs) > bytesOfAll(outputs);
  const shrinking = nodes.filter((node) => node.queue !== 'compute' && node.op.kernel && isShrinking(node));
  for (const [i, node] of shrinking.entries()) {
    const earlier = shrinking[i - mostUnderWay];
    if (!earlier) continue;
    before.set(node, earlier);
    waited.set(earlier, node.id);
  }
  for (const node of [...nodes].reverse()) {
    if (node.queue === 'compute') continue;
    // A reader on the same queue does not wait; whoever waits for it waits for both.
    const waits = node.outputs.flatMap((output) =>
      readersOf(output).map((user) => (user.queue === node.queue ? waitedAt(user) : user.id)),
    );
    waited.set(node, Math.min(waitedAt(node), ...waits));
  }
  return { waited, before };
}
