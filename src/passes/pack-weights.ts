import { Graph, type Value } from '../graph/graph.js';
import { matrixProduct } from '../ops/matmul.js';
import { packedMatmul, packWeights } from '../ops/packed-matmul.js';
import { rewrite } from './rewrite.js';

/** The most rows that a product with packed weights is taken for: as far as it was measured to be the faster one. */
const mostRows = 16;

/** Slots of packed weights are named after those they are packed from. */
export const packedPrefix = 'packed/';

/**
 * Lets products of few rows with a weight read it packed, from a slot of its own. A weight that the graph updates stays
 * as it is, for its packed copy would not follow.
 *
 * @returns the graph, and the one that fills its packed slots from the plain ones
 */
export function readPackedWeights(source: Graph): { graph: Graph; packing: Graph } {
  const packing = new Graph();
  const layouts = new Map<string, boolean>();
  const graph = rewrite(source, (node, { graph, of }) => {
    const product = matrixProduct(node);
    if (!product || product.rows > mostRows) return null;
    const { a, b, transposeB, n, outputDType } = product;
    const { name } = b.node.attrs as { name: string };
    if (source.slots.get(name) !== b || source.updates.has(name)) return null;
    // Taken once as it is and once transposed: packed one way only.
    if ((layouts.get(name) ?? transposeB) !== transposeB) return null;
    const slot = packedPrefix + name;
    if (!layouts.has(name)) {
      layouts.set(name, transposeB);
      const packed = packWeights(packing.slot(name, b.shape, b.dtype), { transposeB });
      packing.slot(slot, packed.shape, packed.dtype);
      packing.update(slot, packed);
    }
    const { shape, dtype } = packing.slots.get(slot) as Value;
    return [packedMatmul(of(a), graph.slot(slot, shape, dtype), { n, outputDType })];
  });
  return { graph, packing };
}
