// Weights that are read in 16 bits lie in slots of their own beside the fp32 ones, written by the optimizer as it updates
// those, so that no step begins with casting them.
import { Graph, type Node, type Value } from '../graph/graph.js';
import { cast, castDType } from '../ops/elementwise.js';
import { rewrite } from './rewrite.js';

/** Slots of working copies are named after what they are copies of. */
export const workingCopyPrefix = 'working/';

/** Slots that a graph reads cast to 16 bits, by name. */
export function copiedSlots(graph: Graph): Map<string, Value> {
  return new Map(graph.nodes.flatMap((node) => entryOf(node) ?? []));
}

/** Lets a graph read working copies instead of casting. What updates a slot must then update its copy. */
export function readWorkingCopies(graph: Graph): Graph {
  return rewrite(graph, (node, { graph: target }) => {
    const [name] = entryOf(node)?.[0] ?? [];
    const [output] = node.outputs as [Value];
    return name === undefined ? null : [target.slot(workingCopyPrefix + name, output.shape, output.dtype)];
  });
}

/** The graph that makes working copies anew. */
export function refreshWorkingCopies(slots: ReadonlyMap<string, Value>): Graph {
  const graph = new Graph();
  for (const [name, { shape, dtype }] of slots) {
    const copy = graph.slot(workingCopyPrefix + name, shape, dtype);
    graph.update(workingCopyPrefix + name, cast(graph.slot(name, shape, 'fp32'), copy.dtype));
  }
  return graph;
}

/** Name of the slot that a node casts, and the cast. */
function entryOf(node: Node): [[string, Value]] | null {
  const dtype = castDType(node);
  if (dtype !== 'bf16' && dtype !== 'fp16') return null;
  const [source] = node.inputs as [Value];
  const name = source.node.attrs.name as string;
  return node.graph.slots.get(name) === source ? [[name, node.outputs[0] as Value]] : null;
}
