// Weights that are read in 16 bits lie in slots of their own beside the fp32 ones, written by the optimizer as it updates
// those, so that no step begins with casting them.
import type { Shape } from '../core/shape.js';
import { Graph, type Node, type Value } from '../graph/graph.js';
import { cast, castDType } from '../ops/elementwise.js';
import { rewrite } from './rewrite.js';

/** Slots of working copies are named after what they are copies of. */
export const workingCopyPrefix = 'working/';

/** A slot's content in 16 bits. */
export interface WorkingCopy {
  /** The slot that it lies in. */
  slot: string;
  shape: Shape;
  dtype: 'bf16' | 'fp16';
}

/**
 * What a graph reads cast to 16 bits, by name of the slot: as it is cast first. Where layers read a slot in two number
 * formats, the other one is cast anew each time.
 */
export function copiedSlots(graph: Graph): Map<string, WorkingCopy> {
  const found = new Map<string, WorkingCopy>();
  for (const node of graph.nodes) {
    const [name, copy] = entryOf(node) ?? [];
    if (name !== undefined && copy && !found.has(name)) found.set(name, copy);
  }
  return found;
}

/**
 * Lets a graph read working copies instead of casting. What updates a slot must then update its copy.
 *
 * @param copies - those there are; default: of all that it casts
 */
export function readWorkingCopies(graph: Graph, copies: ReadonlyMap<string, WorkingCopy> = copiedSlots(graph)): Graph {
  return rewrite(graph, (node, { graph: target }) => {
    const [name, copy] = entryOf(node) ?? [];
    if (name === undefined || !copy || copy.dtype !== copies.get(name)?.dtype) return null;
    return [target.slot(copy.slot, copy.shape, copy.dtype)];
  });
}

/** The graph that makes working copies anew. */
export function refreshWorkingCopies(copies: ReadonlyMap<string, WorkingCopy>): Graph {
  const graph = new Graph();
  for (const [name, { slot, shape, dtype }] of copies) {
    graph.slot(slot, shape, dtype);
    graph.update(slot, cast(graph.slot(name, shape, 'fp32'), dtype));
  }
  return graph;
}

/** Name of the slot that a node casts to 16 bits, and what it makes. */
function entryOf(node: Node): [string, WorkingCopy] | null {
  const dtype = castDType(node);
  if (dtype !== 'bf16' && dtype !== 'fp16') return null;
  const [source] = node.inputs as [Value];
  const name = source.node.attrs.name as string;
  if (node.graph.slots.get(name) !== source) return null;
  return [name, { slot: workingCopyPrefix + name, shape: source.shape, dtype }];
}
