// Products in emulated fp8, as DeepSeek-V3 trains (arXiv:2412.19437, §3.3): factors are rounded to E4M3 with a scale a tile,
// each along the product's own inner dim, and multiplied with fp32 accumulation. An op of this file stands for the product
// until the graph is differentiated, since its gradients round their factors anew; `lower` then spells it out.
// M rows, K features in, N features out, E experts
import type { DType } from '../core/dtype.js';
import type { Graph, Node, Value } from '../graph/graph.js';
import { defineOp } from '../ops/define-op.js';
import {
  type GroupedProduct,
  groupedMatmul,
  groupedMatmulWeightGradient,
  groupedProduct,
} from '../ops/grouped-matmul.js';
import { matmul, matrixProduct } from '../ops/matmul.js';
import { quantizeTiles, type TileOptions } from '../ops/quantize-tiles.js';
import { reshape } from '../ops/shape.js';

type Scale = TileOptions['scale'];
type Fp8Attrs = { transposeB: boolean; outputDType: DType; scale: Scale };

/** A product of rows with weights: one matrix for all of them, or one for each group (`offsets`). */
export type WeightProduct = Pick<GroupedProduct, 'x' | 'w' | 'transposeB'> & { offsets: Value | null };

/** Tiles of activations, whose inner dim is their columns or their rows, and blocks of weights, which both ways are alike. */
const alongColumns = [1, 128] as const;
const alongRows = [128, 1] as const;
const block = [128, 128] as const;

/** What a product's factor is in fp8: exact in bf16 where scales are powers of two, else in fp32. */
function rounded(x: Value, tile: TileOptions['tile'], scale: Scale, offsets: Value | null): Value {
  return quantizeTiles(x, { tile, scale, outputDType: scale === 'float' ? 'fp32' : 'bf16' }, offsets);
}

type Factors = readonly [x: Value, w: Value, offsets: Value | null];

/** x · op(w), both rounded. */
function product([x, w, offsets]: Factors, { transposeB, outputDType, scale }: Fp8Attrs): Value {
  const factors = [rounded(x, alongColumns, scale, offsets), rounded(w, block, scale, null)] as const;
  const options = { transposeB, outputDType };
  return offsets ? groupedMatmul(...factors, offsets, options) : matmul(...factors, options);
}

/** The gradient by w: rows are summed over. What the forward product took is rounded again from that (§3.5.2). */
function weightGradient([x, w, offsets]: Factors, dy: Value, { transposeB, scale }: Fp8Attrs): Value {
  const fold = (value: Value) => reshape(value, [-1, value.shape.at(-1) as number]);
  const taken = rounded(offsets ? x : fold(x), alongColumns, scale, offsets);
  const left = rounded(taken, alongRows, scale, offsets);
  const right = rounded(offsets ? dy : fold(dy), alongRows, scale, offsets);
  const [a, b] = transposeB ? [right, left] : [left, right];
  return offsets
    ? groupedMatmulWeightGradient(a, b, offsets, w.dtype)
    : matmul(a, b, { transposeA: true, outputDType: w.dtype });
}

const fp8ProductOp = defineOp<Fp8Attrs, Factors, [y: Value]>({
  name: 'fp8-product',
  infer: ([x, w], { transposeB, outputDType }) => [
    {
      shape: [...x.shape.slice(0, -1), w.shape.at(transposeB ? -2 : -1) as number],
      dtype: outputDType,
      extent: x.extent,
    },
  ],
  lower: (factors, attrs) => [product(factors, attrs)],
  vjp({ inputs: [x, w, offsets], gradients: [dy], attrs, needs }) {
    if (!dy) return [null, null, null];
    const back = { ...attrs, transposeB: !attrs.transposeB, outputDType: x.dtype };
    return [
      needs[0] ? product([dy, w, offsets], back) : null,
      needs[1] ? weightGradient([x, w, offsets], dy, attrs) : null,
      null,
    ];
  },
  cost: ([x, w], [y]) => ({
    flops: 2 * x.size * (y.shape.at(-1) as number),
    bytesRead: x.bytes + w.bytes,
    bytesWritten: y.bytes,
  }),
});

/** The products of rows with weights in a graph, by their nodes. */
export function weightProducts(graph: Graph): Map<Node, WeightProduct> {
  const weights = new Set<Value>(graph.slots.values());
  const found = new Map<Node, WeightProduct>();
  for (const node of graph.nodes) {
    const { inputs, outputs } = node;
    // Parts of weights, and what is made of several, are weights as well.
    if (inputs.length > 0 && inputs.every((input) => input && weights.has(input)))
      for (const output of outputs) weights.add(output);
    const made = productOf(node);
    // How many rows of a bounded x are in use, tiles know of groups only.
    if (made && weights.has(made.w) && !weights.has(made.x) && (made.offsets || !made.x.extent)) found.set(node, made);
  }
  return found;
}

function productOf(node: Node): WeightProduct | null {
  const grouped = groupedProduct(node);
  if (grouped) return grouped;
  const plain = matrixProduct(node);
  return plain?.b.shape.length === 2 ? { x: plain.a, w: plain.b, transposeB: plain.transposeB, offsets: null } : null;
}

/** The product with both factors rounded to fp8; so are those of its gradients. */
export function fp8Product({ x, w, offsets }: Pick<WeightProduct, 'x' | 'w' | 'offsets'>, attrs: Fp8Attrs): Value {
  return fp8ProductOp.apply([x, w, offsets], attrs)[0];
}
