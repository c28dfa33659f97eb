// Mixed precision (Micikevicius et al. 2017, arXiv:1710.03740): activations and copies of weights in 16 bits, weights
// themselves and what is sensitive in fp32. Runs on a forward graph before it is differentiated; what an op takes in 16 bits
// it says itself (`narrow`, `precise`).
import { type DType, isFloat } from '../core/dtype.js';
import { HadalError } from '../core/errors.js';
import { matcherOf } from '../core/name-pattern.js';
import type { Graph, Node, Value } from '../graph/graph.js';
import { cast } from '../ops/elementwise.js';
import { constantNumber } from '../ops/elementwise-expression.js';
import { fp8Product, weightProducts } from './fp8.js';
import { rewrite } from './rewrite.js';

/** A number format of the computation; fp8: products of rows with weights in fp8, everything else in bf16. */
export type PrecisionDType = 'fp32' | 'bf16' | 'fp16' | 'fp8';

/** What is computed in which number format. Plain data. */
export interface Precision {
  dtype: PrecisionDType;
  /** Layers that are computed otherwise, by pattern of their path or of that of a layer around them; later entries win. */
  layers: readonly { match: string; dtype: PrecisionDType }[];
  fp8: {
    /** What a tile's numbers are divided by: its largest / 448, or the next power of two. */
    scale: 'float' | 'power-of-two';
  };
}

/**
 * Gives a forward graph activations of each layer's dtype. State stays as it is: each use of a weight casts it anew, so that
 * the gradients of its uses are summed in fp32. Outputs keep their dtypes.
 */
export function narrow(graph: Graph, precision: Precision): Graph {
  const precise = preciseNodes(graph);
  const dtypeOf = layerDTypes(precision);
  const products = weightProducts(graph);
  const casts = new Map<Value, Map<DType, Value>>();
  const to = (value: Value, wanted: DType, isShared: boolean) => {
    if (value.dtype === wanted || !isFloat(value.dtype)) return value;
    const known = casts.get(value)?.get(wanted);
    if (known) return known;
    const made = cast(value, wanted);
    if (isShared && !value.node.op.isSource) casts.set(value, new Map(casts.get(value)).set(wanted, made));
    return made;
  };
  const lowered = rewrite(graph, (node, { graph: target, of }) => {
    const { op, inputs, attrs } = node;
    if (op.isSource) return null;
    const layer = dtypeOf(node.scope);
    const dtype = layer === 'fp8' ? 'bf16' : layer;
    const now = inputs.map((input) => input && of(input));
    // What may be skipped casts for itself.
    const isShared = node.predicate === null;
    const product = layer === 'fp8' && !precise.has(node) ? products.get(node) : undefined;
    if (product) {
      const { x, w, offsets, transposeB } = product;
      const given = { x: to(of(x), dtype, isShared), w: of(w), offsets: offsets && of(offsets) };
      return [fp8Product(given, { transposeB, outputDType: dtype, scale: precision.fp8.scale })];
    }
    const isNarrow = dtype !== 'fp32' && !precise.has(node) && takesNarrow(op.narrow, now);
    const wanted = (i: number) => (isNarrow && (op.narrow === 'follow' || op.narrow?.includes(i)) ? dtype : null);
    const typed = now.map((input, i) => {
      if (!input || constantNumber(input) !== null) return input;
      return to(input, wanted(i) ?? (inputs[i] as Value).dtype, isShared);
    });
    const retyped = isNarrow ? op.retype?.(attrs, 0, dtype) : null;
    return target.add(op, typed, retyped ?? attrs);
  });
  for (const [name, value] of graph.outputs)
    lowered.output(name, to(lowered.outputs.get(name) as Value, value.dtype, true));
  return lowered;
}

/** @throws HadalError HADAL_ERR_CONFIG naming a pattern that none of the graph's layers fits */
export function expectLayers({ nodes }: Graph, { layers }: Precision): void {
  const paths = [...new Set(nodes.flatMap(({ scope }) => (scope ? pathsTo(scope) : [])))];
  for (const { match } of layers) {
    if (paths.some(matcherOf(match))) continue;
    throw new HadalError(
      'HADAL_ERR_CONFIG',
      `[precision] expected '${match}' in precision.layers to match a layer, it matches none; layers are ${paths.join(', ')}`,
    );
  }
}

/** `a`, `a.b` and `a.b.c` of `a.b.c`. */
function pathsTo(scope: string): string[] {
  const names = scope.split('.');
  return names.map((_, i) => names.slice(0, i + 1).join('.'));
}

/** The dtype of the layer in which a node was traced. */
function layerDTypes({ dtype, layers }: Precision): (scope: string) => PrecisionDType {
  const entries = layers.map((layer) => ({ ...layer, matches: matcherOf(layer.match) }));
  const known = new Map<string, PrecisionDType>();
  return (scope) => {
    const found = known.get(scope) ?? entries.findLast(({ matches }) => pathsTo(scope).some(matches))?.dtype ?? dtype;
    known.set(scope, found);
    return found;
  };
}

function takesNarrow(rule: Node['op']['narrow'], inputs: readonly (Value | null)[]): boolean {
  const isNarrow = (input: Value | null) => input?.dtype === 'bf16' || input?.dtype === 'fp16';
  return rule === 'follow' ? inputs.some(isNarrow) : rule !== undefined;
}

/** Nodes whose result some op wants computed in fp32. */
function preciseNodes({ nodes }: Graph): Set<Node> {
  const found = new Set<Node>();
  for (const { op, inputs } of nodes) {
    for (const i of op.precise ?? []) {
      let node = inputs[i]?.node;
      for (; node; node = node.op.isView ? node.inputs[0]?.node : undefined) found.add(node);
    }
  }
  return found;
}
