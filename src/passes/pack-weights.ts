import type { DType } from '../core/dtype.js';
import { invariant } from '../core/errors.js';
import { Graph, type Value } from '../graph/graph.js';
import { matrixProduct } from '../ops/matmul.js';
import { packedMatmul, packWeights } from '../ops/packed-matmul.js';
import { rewrite } from './rewrite.js';

/** The most rows that a product with packed weights is taken for: as far as it was measured to be the faster one. */
const mostRows = (dtype: DType) => (dtype === 'bf16' ? 16 : 64);

/** Slots of packed weights are named after what they are packed from. */
export const packedPrefix = 'packed/';

/**
 * Lets products of few rows with a weight, or with what is made of weights alone, such as a part of one, read it packed,
 * from a slot of its own. A weight that the graph updates stays as it is, for its packed copy would not follow.
 *
 * @returns the graph, and the one that fills its packed slots from the plain ones
 */
export function readPackedWeights(source: Graph): { graph: Graph; packing: Graph } {
  const packing = new Graph();
  const layouts = new Map<string, boolean>();
  const names = weightNames(source);
  const graph = rewrite(source, (node, { graph, of }) => {
    const product = matrixProduct(node);
    if (!product || product.rows > mostRows(product.b.dtype)) return null;
    const { a, b, transposeB, n, outputDType } = product;
    const name = names.get(b);
    // Taken once as it is and once transposed: packed one way only.
    if (name === undefined || (layouts.get(name) ?? transposeB) !== transposeB) return null;
    const slot = packedPrefix + name;
    if (!layouts.has(name)) {
      layouts.set(name, transposeB);
      const packed = packWeights(copyInto(packing, b), { transposeB });
      packing.slot(slot, packed.shape, packed.dtype);
      packing.update(slot, packed);
    }
    const { shape, dtype } = packing.slots.get(slot) as Value;
    return [packedMatmul(of(a), graph.slot(slot, shape, dtype), { n, outputDType })];
  });
  return { graph, packing };
}

/** Of each value that is made of weights alone: which and how, the same in every graph. */
function weightNames(source: Graph): Map<Value, string> {
  const names = new Map<Value, string>();
  for (const [name, value] of source.slots) if (!source.updates.has(name)) names.set(value, name);
  for (const { op, inputs, attrs, predicate, outputs } of source.nodes) {
    const from = inputs.map((input) => input && names.get(input));
    if (from.length === 0 || predicate || !from.every((name) => typeof name === 'string')) continue;
    for (const [i, output] of outputs.entries())
      names.set(output, `${op.name} ${JSON.stringify(attrs)} ${i} of ${from.join(', ')}`);
  }
  return names;
}

/** Makes a weight's value anew in another graph. */
function copyInto(graph: Graph, value: Value): Value {
  const { op, inputs, attrs } = value.node;
  const { name } = attrs as { name: string };
  if (inputs.length === 0) return graph.slot(name, value.shape, value.dtype);
  const copies = inputs.map((input) => input && copyInto(graph, input));
  const copy = graph.add(op, copies, attrs)[value.index];
  invariant(copy, `op '${op.name}' lost an output`);
  return copy;
}
