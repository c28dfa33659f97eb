import type { Node, Value } from './graph.js';

/** All that a node needs to be there before it runs: inputs, extents that others gave, its predicate. */
export function reads(node: Node): Value[] {
  const extents = node.outputs.map(({ extent }) => (extent?.node === node ? null : extent));
  return [...node.inputs, ...extents, node.predicate].filter((value) => value !== null);
}

/** The nodes that read each value, in order. */
export function readersIn(nodes: readonly Node[]): Map<Value, Node[]> {
  const readers = new Map<Value, Node[]>();
  for (const node of nodes) {
    for (const value of new Set(reads(node))) {
      const known = readers.get(value);
      if (known) known.push(node);
      else readers.set(value, [node]);
    }
  }
  return readers;
}

/** The value in whose memory a value lies: itself, or what it is a view of. */
export function rootOf(value: Value): Value {
  let root = value;
  while (root.node.op.isView) root = root.node.inputs[0] as Value;
  return root;
}
