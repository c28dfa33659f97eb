// Mixed precision (Micikevicius et al. 2017, arXiv:1710.03740): activations and copies of weights in 16 bits, weights
// themselves and what is sensitive in fp32. Runs on a forward graph before it is differentiated; what an op takes in 16 bits
// it says itself (`narrow`, `precise`).
import { type DType, isFloat } from '../core/dtype.js';
import type { Graph, Node, Value } from '../graph/graph.js';
import { cast } from '../ops/elementwise.js';
import { constantNumber } from '../ops/elementwise-expression.js';
import { rewrite } from './rewrite.js';

/** A number format of the computation; fp8: products of rows with weights in fp8, everything else in bf16. */
export type PrecisionDType = 'fp32' | 'bf16' | 'fp16' | 'fp8';

/** What is computed in which number format. Plain data. */
export interface Precision {
  dtype: PrecisionDType;
  /** Layers that are computed otherwise, by pattern of their path; later entries win. */
  layers: readonly { match: string; dtype: PrecisionDType }[];
  fp8: {
    /** What a tile's numbers are divided by: its largest / 448, or the next power of two. */
    scale: 'float' | 'power-of-two';
  };
}

/** One number format for all layers. */
export const uniformPrecision = (dtype: PrecisionDType): Precision => ({ dtype, layers: [], fp8: { scale: 'float' } });

/**
 * Gives a forward graph activations of `dtype`. State stays as it is: each use of a weight casts it anew, so that the
 * gradients of its uses are summed in fp32. Outputs keep their dtypes.
 */
export function narrow(graph: Graph, dtype: DType): Graph {
  const precise = preciseNodes(graph);
  const casts = new Map<Value, Value>();
  const to = (value: Value, wanted: DType, isShared: boolean) => {
    if (value.dtype === wanted || !isFloat(value.dtype)) return value;
    const known = casts.get(value);
    if (known) return known;
    const made = cast(value, wanted);
    if (isShared && !value.node.op.isSource) casts.set(value, made);
    return made;
  };
  const lowered = rewrite(graph, (node, { graph: target, of }) => {
    const { op, inputs, attrs } = node;
    if (op.isSource) return null;
    const now = inputs.map((input) => input && of(input));
    const isNarrow = !precise.has(node) && takesNarrow(op.narrow, now, dtype);
    const wanted = (i: number) => (isNarrow && (op.narrow === 'follow' || op.narrow?.includes(i)) ? dtype : null);
    const typed = now.map((input, i) => {
      if (!input || constantNumber(input) !== null) return input;
      // What may be skipped casts for itself.
      return to(input, wanted(i) ?? (inputs[i] as Value).dtype, node.predicate === null);
    });
    const retyped = isNarrow ? op.retype?.(attrs, 0, dtype) : null;
    return target.add(op, typed, retyped ?? attrs);
  });
  for (const [name, value] of graph.outputs)
    lowered.output(name, to(lowered.outputs.get(name) as Value, value.dtype, true));
  return lowered;
}

function takesNarrow(rule: Node['op']['narrow'], inputs: readonly (Value | null)[], dtype: DType): boolean {
  return rule === 'follow' ? inputs.some((input) => input?.dtype === dtype) : rule !== undefined;
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
