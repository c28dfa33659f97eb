import type { Graph, Node, Value } from '../graph/graph.js';

/**
 * Of a value: the node that alone reads it, and reads it once; null where there are more, none, or something else keeps it
 * (an update, an output, an extent, a predicate).
 */
export function soleUsers(graph: Graph): (value: Value) => Node | null {
  const users = new Map<Value, Node | null>();
  const note = (value: Value | null, user: Node | null) => {
    if (value) users.set(value, users.has(value) ? null : user);
  };
  for (const node of graph.nodes) {
    for (const input of node.inputs) note(input, node);
    note(node.predicate, null);
    for (const { extent } of node.outputs) if (extent?.node !== node) note(extent, null);
  }
  for (const value of [...graph.updates.values(), ...graph.outputs.values()]) note(value, null);
  return (value) => users.get(value) ?? null;
}
