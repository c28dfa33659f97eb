// A sum and the normalisation that first reads it pass over memory together.
import { sameShape } from '../core/shape.js';
import type { Graph, Node, Value } from '../graph/graph.js';
import { addendsOf } from '../ops/elementwise.js';
import { rewrite } from './rewrite.js';

/** Lets a normalisation compute the sum that it is of, where nothing reads the sum before it. */
export function fuseResidualNorm(graph: Graph): Graph {
  const absorbed = new Set<Node>();
  const norms = new Set<Node>();
  const isRead = new Set<Value>();
  for (const node of graph.nodes) {
    const [x, ...rest] = node.inputs;
    const isFirst = x && !isRead.has(x) && !rest.includes(x);
    if (node.op.ofSum && isFirst && isPlainSum(x) && x.node.predicate === node.predicate) {
      absorbed.add(x.node);
      norms.add(node);
    }
    for (const input of [...node.inputs, node.predicate]) if (input) isRead.add(input);
  }
  return rewrite(graph, (node, { of, set }) => {
    if (absorbed.has(node)) return 'drop';
    if (!norms.has(node)) return null;
    const [x, ...rest] = node.inputs as [Value, ...(Value | null)[]];
    const [a, b] = (addendsOf(x.node) as readonly [Value, Value]).map(of) as [Value, Value];
    const made = node.op.ofSum?.(a, b, [a, ...rest.map((input) => input && of(input))], node.attrs);
    if (!made) return null;
    set(x, made.sum);
    return made.outputs;
  });
}

/** Whether a value is the sum of two of its own type. */
function isPlainSum({ node, shape, dtype, extent }: Value): boolean {
  const addends = addendsOf(node);
  return addends?.every((addend) => sameShape(addend.shape, shape) && addend.dtype === dtype && !extent) ?? false;
}
