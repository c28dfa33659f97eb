// Gradients of slices that together are the whole are one after the other in memory: instead of a sum of mostly zeros.
import { sameShape } from '../core/shape.js';
import type { Graph, Node, Value } from '../graph/graph.js';
import { addendsOf } from '../ops/elementwise.js';
import { concat, unsliceOf } from '../ops/shape.js';
import { rewrite } from './rewrite.js';
import { soleUsers } from './users.js';

/** Makes sums of the gradients of neighbouring slices concatenations; what they replace is left to `prune`. */
export function joinSlices(graph: Graph): Graph {
  const userOf = soleUsers(graph);

  /** The terms of a sum, through sums that nothing else reads. */
  const termsOf = (node: Node): Value[] =>
    (addendsOf(node) ?? []).flatMap((value) =>
      userOf(value) === node && addendsOf(value.node) && value.node.predicate === node.predicate
        ? termsOf(value.node)
        : [value],
    );

  return rewrite(graph, (node, { of }) => {
    const [total] = node.outputs as [Value];
    const isAlike = ({ shape, dtype, extent }: Value) =>
      sameShape(shape, total.shape) && dtype === total.dtype && extent === total.extent;
    const parts = termsOf(node).map((value) => (isAlike(value) ? unsliceOf(value.node) : null));
    const sorted = parts.filter((part) => part !== null).sort((a, b) => a.start - b.start);
    const [first] = sorted;
    if (!first || sorted.length < parts.length) return null;
    let end = 0;
    for (const { x, axis, start, size } of sorted) {
      if (axis !== first.axis || size !== first.size || start !== end) return null;
      end += x.shape[axis] as number;
    }
    if (end !== first.size) return null;
    return [
      concat(
        sorted.map(({ x }) => of(x)),
        first.axis,
      ),
    ];
  });
}
