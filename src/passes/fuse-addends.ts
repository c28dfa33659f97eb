// Sums of which one term is a product alone: the product adds the other term as it is written (residual connections, biases,
// gradients that meet, gradients of several micro-batches).
import type { Graph, Node, Value } from '../graph/graph.js';
import { addendsOf } from '../ops/elementwise.js';
import { rewrite } from './rewrite.js';
import { soleUsers } from './users.js';

/** Lets ops that can (`plus`) add to their output what is added to it afterwards. */
export function fuseAddends(graph: Graph): Graph {
  const userOf = soleUsers(graph);
  const deferred = new Set<Node>();
  const chosen = new Map<Node, { product: Value; addend: Value }>();
  for (const node of graph.nodes) {
    const candidates = addendsOf(node)?.filter((value) => isFree(value, node) && !deferred.has(value.node)) ?? [];
    // The later one, so that as little as possible waits for the other.
    const product = candidates.sort((a, b) => b.node.id - a.node.id)[0];
    if (!product) continue;
    const addend = node.inputs[node.inputs[0] === product ? 1 : 0] as Value;
    deferred.add(product.node);
    chosen.set(node, { product, addend });
  }

  function isFree(value: Value, sum: Node): boolean {
    const { node, index } = value;
    const fits = node.op.plus !== undefined && index === 0 && value.extent === (sum.outputs[0] as Value).extent;
    return fits && userOf(value) === sum && node.predicate === sum.predicate && node.queue === sum.queue;
  }

  return rewrite(graph, (node, { of, graph: target }) => {
    if (deferred.has(node)) return 'drop';
    const found = chosen.get(node);
    if (!found) return null;
    const { op, inputs, attrs } = found.product.node;
    const [output] = node.outputs as [Value];
    const given = inputs.map((input) => input && of(input));
    const made = op.plus?.(of(found.addend), given, attrs, output.dtype);
    if (made) {
      // In profiles the time is the product's.
      made.node.scope = found.product.node.scope;
      return [made];
    }
    const [plain] = target.add(op, given, attrs);
    return target.add(
      node.op,
      node.inputs.map((input) => (input === found.product ? (plain as Value) : of(input as Value))),
      node.attrs,
    );
  });
}
