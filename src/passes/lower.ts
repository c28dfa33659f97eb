// Ops that stand for several until a graph is differentiated have no kernel; from here on they are what they stand for.
import type { Graph } from '../graph/graph.js';
import type { KernelCall } from '../graph/op.js';
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

/** Spells out ops whose kernels a device is not to be trusted with. Those that have no lowered form stay. */
export function withoutKernels(graph: Graph, kernels: readonly string[]): Graph {
  if (kernels.length === 0) return graph;
  return rewrite(graph, ({ op, inputs, outputs, attrs }, { of }) => {
    const call = op.kernel?.(inputs, outputs, attrs) as KernelCall | undefined;
    if (!call || !op.lower || !kernels.includes(call.kernel)) return null;
    return op.lower(
      inputs.map((input) => input && of(input)),
      attrs,
    );
  });
}
