// Sums of which one term is a product alone: the product adds the other term as it is written (residual connections, biases,
// gradients that meet, gradients of several micro-batches).
import type { Graph, Node, Value } from '../graph/graph.js';
import { addendsOf } from '../ops/elementwise.js';
import { type Rewriter, rewrite } from './rewrite.js';
import { soleUsers } from './users.js';

/** A sum, the product in it that adds the other term, and that term. */
interface Fusion {
  sum: Value;
  product: Value;
  addend: Value;
}

/** Lets ops that can (`plus`) add to their output what is added to it afterwards. */
export function fuseAddends(graph: Graph): Graph {
  const userOf = soleUsers(graph);
  const byProduct = new Map<Node, Fusion>();
  const bySum = new Map<Node, Fusion>();
  for (const node of graph.nodes) {
    const candidates = addendsOf(node)?.filter((value) => isFree(value, node) && !byProduct.has(value.node)) ?? [];
    // The later one, so that as little as possible waits for the other.
    const product = candidates.sort((a, b) => b.node.id - a.node.id)[0];
    if (!product) continue;
    const addend = node.inputs[node.inputs[0] === product ? 1 : 0] as Value;
    const fusion = { sum: node.outputs[0] as Value, product, addend };
    byProduct.set(product.node, fusion);
    bySum.set(node, fusion);
  }

  function isFree(value: Value, sum: Node): boolean {
    const { node, index } = value;
    const fits = node.op.plus !== undefined && index === 0 && value.extent === (sum.outputs[0] as Value).extent;
    return fits && userOf(value) === sum && node.predicate === sum.predicate && node.queue === sum.queue;
  }

  const fuse = ({ sum, product, addend }: Fusion, { of }: Rewriter) => {
    const { op, inputs, attrs } = product.node;
    const given = inputs.map((input) => input && of(input));
    return op.plus?.(of(addend), given, attrs, sum.dtype) ?? null;
  };

  const fused = new Map<Fusion, Value>();
  const order = [...graph.nodes.filter(isThere), ...graph.nodes.filter((node) => !isThere(node))];
  return rewrite(
    graph,
    (node, rewriter) => {
      const { graph: target, of } = rewriter;
      const own = byProduct.get(node);
      if (own) {
        if (!isInTime(own)) return 'drop';
        const made = fuse(own, rewriter);
        if (!made) return null;
        // What it is now is the sum, not the product.
        fused.set(own, made);
        return 'drop';
      }
      const fusion = bySum.get(node);
      if (!fusion) return null;
      const { product } = fusion;
      const sum = fused.get(fusion);
      if (sum) return [sum];
      if (isInTime(fusion)) return null;
      const made = fuse(fusion, rewriter);
      if (made) {
        // In profiles the time is the product's.
        made.node.scope = product.node.scope;
        made.node.isBackward = product.node.isBackward;
        return [made];
      }
      const { op, inputs, attrs } = product.node;
      const [plain] = target.add(
        op,
        inputs.map((input) => input && of(input)),
        attrs,
      );
      return target.add(
        node.op,
        node.inputs.map((input) => (input === product ? (plain as Value) : of(input as Value))),
        node.attrs,
      );
    },
    order,
  );
}

/** Whether a node's value is there from the beginning, wherever it was traced. */
const isThere = ({ op, predicate }: Node) => op.isSource === true && !predicate;

/** Whether the product can add the other term when it runs; else it waits for it. */
const isInTime = ({ product, addend }: Fusion) => isThere(addend.node) || addend.node.id < product.node.id;
