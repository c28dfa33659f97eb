import type { Graph } from '../../src/graph/graph.js';
import { rewrite } from '../../src/passes/rewrite.js';

/** The graph with every fused op replaced by its lowered form. */
export function lowerAll(graph: Graph): Graph {
  return rewrite(
    graph,
    ({ op, inputs, attrs }, { of }) =>
      op.lower?.(
        inputs.map((input) => input && of(input)),
        attrs,
      ) ?? null,
  );
}
