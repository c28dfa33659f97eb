// What forward leaves for backward to read, and what is computed again: the policies of activation checkpointing.
import { matcherOf } from '../core/name-pattern.js';
import type { Graph, Node, Value } from '../graph/graph.js';
import { reads, rootOf } from '../graph/reads.js';
import { layerOf } from './layers.js';
import { recomputable } from './recompute.js';
import { workingCopyPrefix } from './working-copies.js';

/**
 * - `none`: everything is kept;
 * - `{ every: k }`: what passes from one k layers to the next;
 * - `sqrt`: as many layers as there are such groups of them;
 * - `selective`: the results of products and attention, except the up-projections of latent attention, which are computed
 *   again like norms, activations and permutations. DeepSeek-V3, arXiv:2412.19437, §3.2.3.
 *
 * Of the last layers, with which backward begins at once, and outside of layers the results of products are always kept.
 */
export type RecomputePolicy = 'none' | 'selective' | 'sqrt' | { every: number };

/** Flops a byte of a result from which on it counts as a product: between what reads its inputs once and products. */
const productFlopsPerByte = 16;

const isUpProjection = matcherOf('*.{q_b_proj,kv_b_proj}.weight');

/** Values that backward reads as forward left them. */
export function keptBy(graph: Graph, policy: RecomputePolicy): ReadonlySet<Value> {
  const forward = [...recomputable(graph)].filter(({ op }) => !op.isView);
  if (policy === 'none') return new Set(forward.flatMap(({ outputs }) => outputs));
  const layers = [...new Set(forward.map(({ scope }) => layerOf(scope)).filter((layer) => layer !== null))];
  const every = policy === 'selective' ? 1 : policy === 'sqrt' ? Math.round(Math.sqrt(layers.length)) : policy.every;
  const segments = new Map(layers.map((layer, i) => [layer, Math.floor(i / every)]));
  const last = segments.get(layers.at(-1) ?? '') ?? null;
  const segmentOf = (node: Node) => segments.get(layerOf(node.scope) ?? '') ?? null;

  const kept = bordersOf(graph, segmentOf);
  for (const node of forward) {
    const segment = segmentOf(node);
    const isInner = segment !== null && segment !== last;
    if (isInner && policy !== 'selective') continue;
    if (node.op.restore) kept.add(node.outputs[node.op.restore.output] as Value);
    const isAgain = policy === 'selective' && weightsOf(node).some(isUpProjection);
    if (flopsPerByte(node) >= productFlopsPerByte && !isAgain) for (const output of node.outputs) kept.add(output);
  }
  return kept;
}

/** What forward nodes of one segment read of another. */
function bordersOf(graph: Graph, segmentOf: (node: Node) => number | null): Set<Value> {
  const found = new Set<Value>();
  for (const node of graph.nodes) {
    if (node.isBackward || node.op.isView || node.op.isSource) continue;
    for (const value of reads(node).map(rootOf)) {
      if (segmentOf(value.node) === segmentOf(node)) continue;
      // Where two values that pass the border are added, their sum passes it instead.
      const { restore } = node.op;
      const isAdded = restore && !restore.inputs.some((i) => rootOf(node.inputs[i] as Value) === value);
      found.add(isAdded ? (node.outputs[restore.output] as Value) : value);
    }
  }
  return found;
}

function flopsPerByte({ op, inputs, outputs, attrs }: Node): number {
  const bytes = outputs.reduce((sum, output) => sum + output.bytes, 0);
  return (op.cost?.(inputs, outputs, attrs).flops ?? 0) / Math.max(1, bytes);
}

/** Names of the weights that a node reads, as they are or in another form. */
function weightsOf(node: Node): string[] {
  return node.inputs.flatMap((input) => {
    let value = input;
    while (value && value.node.inputs.length === 1) value = value.node.inputs[0] ?? null;
    const name = value?.node.op.isSource ? (value.node.attrs.name as string | undefined) : undefined;
    return name === undefined ? [] : [name.startsWith(workingCopyPrefix) ? name.slice(workingCopyPrefix.length) : name];
  });
}
