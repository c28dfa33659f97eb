// A weight that is a product of two is applied factor by factor, x·(a·b)ᵀ = (x·bᵀ)·aᵀ, where that is less work: the weight
// itself, and its gradient, are then never there. Runs before differentiation.
import type { Graph, Node, Value } from '../graph/graph.js';
import { matrixProduct } from '../ops/matmul.js';
import { rewrite } from './rewrite.js';

/** Lets ops read the factors of products of weights; what nobody reads any more is left to `prune`. */
export function applyFactors(source: Graph): Graph {
  const products = weightProducts(source);
  if (products.size === 0) return source;
  const read = new Set([...source.updates.values(), ...source.outputs.values()]);
  for (const { inputs } of source.nodes) for (const input of inputs) if (input) read.add(input);

  return rewrite(source, (node, { graph, of }) => {
    const { op, attrs } = node;
    const index = node.inputs.findIndex((input) => input && products.has(input));
    const product = products.get(node.inputs[index] as Value);
    if (!product || !op.ofProduct) return null;
    const inputs = node.inputs.map((input) => input && of(input));
    const first = graph.nodes.length;
    const [a, b] = product.inputs as [Value, Value];
    const made = op.ofProduct(index, of(a), of(b), inputs, attrs);
    if (!made || node.outputs.some((output, i) => !made[i] && read.has(output))) return null;
    const work = graph.nodes.slice(first).reduce((sum, one) => sum + flopsOf(one), 0);
    return work < flopsOf(node) + flopsOf(product) ? (made as readonly Value[]) : null;
  });
}

/** Products of two slots, by what they give. */
function weightProducts({ nodes, slots }: Graph): Map<Value, Node> {
  const weights = new Set(slots.values());
  const found = new Map<Value, Node>();
  for (const node of nodes) {
    const product = matrixProduct(node);
    if (product && !product.transposeB && weights.has(product.a) && weights.has(product.b))
      found.set(node.outputs[0] as Value, node);
  }
  return found;
}

const flopsOf = ({ op, inputs, outputs, attrs }: Node): number => op.cost?.(inputs, outputs, attrs).flops ?? 0;
