import type { Node, Value } from './graph.js';

/** All that a node needs to be there before it runs: inputs, extents that others gave, its predicate. */
export function reads(node: Node): Value[] {
  const extents = node.outputs.map(({ extent }) => (extent?.node === node ? null : extent));
  return [...node.inputs, ...extents, node.predicate].filter((value) => value !== null);
}

/** The value in whose memory a value lies: itself, or what it is a view of. */
export function rootOf(value: Value): Value {
  let root = value;
  while (root.node.op.isView) root = root.node.inputs[0] as Value;
  return root;
}
