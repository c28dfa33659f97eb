// Ops that stand for several until a graph is differentiated have no kernel; from here on they are what they stand for.
import type { Graph } from '../graph/graph.js';
import { rewrite } from './rewrite.js';

/** Spells out ops that have no kernel of their own. */
export function lower(graph: Graph): Graph {
  return rewrite(graph, ({ op, inputs, attrs }, { of }) => {
    if (op.kernel || op.isView || op.isSource || !op.lower) return null;
    return op.lower(
      inputs.map((input) => input && of(input)),
      attrs,
    );
  });
}
