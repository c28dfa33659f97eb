// Weights that are read in 16 bits lie in slots of their own beside the fp32 ones, written by the optimizer as it updates
// those, so that no step begins with casting them.
import { Graph, type Node, type Value } from '../graph/graph.js';
import { cast, castDType } from '../ops/elementwise.js';
import { rewrite } from './rewrite.js';

/** Slots of working copies are named after what they are copies of. */
export const workingCopyPrefix = 'working/';

/**
 * Slots that a graph reads cast to 16 bits, by name, with the first cast: where layers read one in two number formats, the
 * other one is cast anew each time.
 */
export function copiedSlots(graph: Graph): Map<string, Value> {
  const found = new Map<string, Value>();
  for (const node of graph.nodes) {
    const [name, value] = entryOf(node) ?? [];
    if (name !== undefined && value && !found.has(name)) found.set(name, value);
  }
  return found;
}

/** Lets a graph read working copies instead of casting. What updates a slot must then update its copy. */
export function readWorkingCopies(graph: Graph): Graph {
  const copies = copiedSlots(graph);
  return rewrite(graph, (node, { graph: target }) => {
    const [name, output] = entryOf(node) ?? [];
    if (name === undefined || !output || output.dtype !== copies.get(name)?.dtype) return null;
    return [target.slot(workingCopyPrefix + name, output.shape, output.dtype)];
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

/** Rounds what a graph updates into those copies that it does not update yet: optimizers write copies in bf16 themselves. */
export function updateWorkingCopies(graph: Graph, slots: ReadonlyMap<string, Value>): void {
  for (const [name, { shape, dtype }] of slots) {
    const updated = graph.updates.get(name);
    if (!updated || graph.updates.has(workingCopyPrefix + name)) continue;
    const copy = graph.slot(workingCopyPrefix + name, shape, dtype);
    graph.update(workingCopyPrefix + name, cast(updated, copy.dtype));
  }
}

/** Name of the slot that a node casts, and the cast. */
function entryOf(node: Node): [string, Value] | null {
  const dtype = castDType(node);
  if (dtype !== 'bf16' && dtype !== 'fp16') return null;
  const [source] = node.inputs as [Value];
  const name = source.node.attrs.name as string;
  return node.graph.slots.get(name) === source ? [name, node.outputs[0] as Value] : null;
}
