// A cast that alone reads a result is done by the op that computes it: products give fp32 gradients of 16-bit weights without
// a second pass over memory, and without the rounding in between.
import { isFloat } from '../core/dtype.js';
import type { Graph, Node, Value } from '../graph/graph.js';
import { castDType } from '../ops/elementwise.js';
import { rewrite } from './rewrite.js';
import { soleUsers } from './users.js';

/** Folds casts into what they read, through views. */
export function foldCasts(graph: Graph): Graph {
  const userOf = soleUsers(graph);
  const attrsOf = new Map<Node, Node['attrs']>();
  const folded = new Set<Node>();
  for (const node of graph.nodes) {
    const dtype = castDType(node);
    let value = node.inputs[0] as Value;
    // A fraction that is cut off stays off.
    if (dtype === null || !isFloat(dtype) || !isFloat(value.dtype)) continue;
    let reader = node;
    while (value.node.op.isView && userOf(value) === reader)
      [reader, value] = [value.node, value.node.inputs[0] as Value];
    const maker = value.node;
    if (userOf(value) !== reader || maker.predicate !== node.predicate || maker.queue !== node.queue) continue;
    const attrs = maker.op.retype?.(attrsOf.get(maker) ?? maker.attrs, value.index, dtype);
    if (!attrs) continue;
    attrsOf.set(maker, attrs);
    folded.add(node);
  }
  return rewrite(graph, (node, { graph: target, of }) => {
    if (folded.has(node)) return [of(node.inputs[0] as Value)];
    const attrs = attrsOf.get(node);
    return attrs
      ? target.add(
          node.op,
          node.inputs.map((input) => input && of(input)),
          attrs,
        )
      : null;
  });
}
