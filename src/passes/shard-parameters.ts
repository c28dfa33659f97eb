// ZeRO stage 3, Rajbhandari et al. 2020, arXiv:1910.02054, §5.3: parameters lie in shards. Each layer's are gathered while the
// layer before it computes, in the forward pass and once more in the backward pass, and their memory goes to others when the
// layer is done with them: of all whole parameters, two layers' are there.
import { invariant } from '../core/errors.js';
import type { Shape } from '../core/shape.js';
import type { Graph, Node, Value } from '../graph/graph.js';
import { isAllGather } from '../ops/collectives.js';
import { castDType } from '../ops/elementwise.js';
import { layerOf } from './layers.js';
import { type Rewriter, rewrite } from './rewrite.js';

/**
 * Lets a graph gather what it reads of parameters that lie in shards, at each place that reads it.
 *
 * @param sharded - names of slots
 * @param wholeOf - the parameter of that name, whole in a dtype, gathered in the graph given
 */
export function gatherReads(
  graph: Graph,
  sharded: ReadonlySet<string>,
  wholeOf: (graph: Graph, parameter: { name: string; shape: Shape }, dtype: Value['dtype']) => Value,
): Graph {
  const slots = new Map(
    [...graph.slots].flatMap(([name, value]) => (sharded.has(name) ? [[value, name] as const] : [])),
  );
  const shardedSlot = (value: Value | null | undefined) => {
    const name = value ? slots.get(value) : undefined;
    return value && name !== undefined ? { name, shape: value.shape } : null;
  };
  const isCast = (node: Node) => castDType(node) !== null;
  const readPlain = new Set(graph.nodes.flatMap((node) => (isCast(node) ? [] : node.inputs)));
  return rewrite(graph, (node, { graph: target }) => {
    const own = shardedSlot(node.outputs[0]);
    if (own) return readPlain.has(node.outputs[0] as Value) ? [wholeOf(target, own, 'fp32')] : 'drop';
    const [dtype, source] = [castDType(node), shardedSlot(node.inputs[0])];
    return dtype && source ? [wholeOf(target, source, dtype)] : null;
  });
}

/** Nodes that read parameters one after the other: those of one layer, in one direction. */
interface Region {
  index: number;
  scope: string;
  /** What they read, as it is gathered. */
  reads: Set<Value>;
  /** By what it was: what this region reads instead. */
  made: Map<Value, Value>;
}

/** Gathers parameters for each region anew, a region ahead of the first use. To be run when the order of nodes is settled. */
export function shardParameters(graph: Graph): Graph {
  const madeOf = madeOfShards(graph);
  if (madeOf.size === 0) return graph;
  const { regions, regionOf } = regionsOf(graph, madeOf);
  const isLeft = castsOfShards(graph);
  let gathered = 0;
  return rewrite(graph, (node, rewriter) => {
    if (isLeft.has(node) || node.outputs.some((output) => madeOf.has(output))) return 'drop';
    const region = regionOf.get(node);
    if (!region) return null;
    invariant(node.predicate === null, `what reads parameters in ${node.scope} may be skipped`);
    while (gathered < regions.length && gathered <= region.index + 1) gather(regions[gathered++] as Region, rewriter);
    for (const input of node.inputs)
      if (input && madeOf.has(input)) rewriter.set(input, valueIn(region, input, rewriter));
    return null;
  });
}

/** What is gathered from slots, and all that is made of nothing else, with what it is made of. */
function madeOfShards(graph: Graph): Map<Value, ReadonlySet<Value>> {
  const found = new Map<Value, ReadonlySet<Value>>();
  const results = new Set([...graph.updates.values(), ...graph.outputs.values()]);
  for (const node of graph.nodes) {
    if (node.predicate || node.outputs.some((output) => results.has(output))) continue;
    if (isAllGather(node)) {
      if (!node.inputs.every((share) => slotUnder(share as Value))) continue;
      for (const output of node.outputs) found.set(output, new Set([output]));
    } else if (node.queue === 'compute' && node.inputs.length > 0) {
      const parts = node.inputs.map((input) => input && found.get(input));
      if (!parts.every((part) => part)) continue;
      const all = new Set(parts.flatMap((part) => [...(part as ReadonlySet<Value>)]));
      for (const output of node.outputs) found.set(output, all);
    }
  }
  return found;
}

/** The slot that a share is read from, as it is or in another dtype. */
function slotUnder(share: Value): Value | null {
  const value = castDType(share.node) ? (share.node.inputs[0] as Value) : share;
  return value.node.op.isSource ? value : null;
}

/** Casts that gathers alone read. */
function castsOfShards(graph: Graph): Set<Node> {
  const casts = new Set<Node>();
  for (const node of graph.nodes) {
    if (!isAllGather(node)) continue;
    for (const share of node.inputs) if (share && castDType(share.node) && slotUnder(share)) casts.add(share.node);
  }
  for (const node of graph.nodes) {
    if (!isAllGather(node)) for (const input of node.inputs) if (input) casts.delete(input.node);
  }
  return casts;
}

function regionsOf(graph: Graph, madeOf: ReadonlyMap<Value, ReadonlySet<Value>>) {
  const regions: Region[] = [];
  const regionOf = new Map<Node, Region>();
  let last = '';
  for (const node of graph.nodes) {
    if (node.outputs.some((output) => madeOf.has(output))) continue;
    const reads = node.inputs.flatMap((input) => [...((input && madeOf.get(input)) ?? [])]);
    if (reads.length === 0) continue;
    const scope = layerOf(node.scope) ?? node.scope;
    const key = `${node.isBackward} ${scope}`;
    if (key !== last) regions.push({ index: regions.length, scope, reads: new Set(), made: new Map() });
    last = key;
    const region = regions.at(-1) as Region;
    regionOf.set(node, region);
    for (const value of reads) region.reads.add(value);
  }
  return { regions, regionOf };
}

/** Numbers from which on a tensor is gathered by a call of its own, where it is to be; with others it would be copied there. */
const ownCall = 2 ** 16;

/** Gathers what a region reads. */
function gather(region: Region, rewriter: Rewriter): void {
  const values = [...region.reads];
  const large = values.filter((value) => value.size >= ownCall);
  const small = values.filter((value) => value.size < ownCall);
  const most = values[0]?.node.op.join?.most as number;
  const calls = Array.from({ length: Math.ceil(small.length / most) }, (_, i) => small.slice(i * most, (i + 1) * most));
  for (const call of [...large.map((value) => [value]), ...calls]) gatherTogether(call, region, rewriter);
}

function gatherTogether(values: readonly Value[], { scope, made }: Region, { graph, of }: Rewriter): void {
  const { op } = (values[0] as Value).node;
  graph.scoped(scope, () => {
    const shares = values.map(({ node, index }) => {
      const share = node.inputs[index] as Value;
      const dtype = castDType(share.node);
      return dtype ? graph.add(share.node.op, [of(share.node.inputs[0] as Value)], share.node.attrs)[0] : of(share);
    });
    const attrs = values.map(({ node, shape }) => ({ ...node.attrs, shapes: [shape] }));
    const outputs = graph.onQueue('communication', () =>
      graph.add(op, shares as Value[], (op.join as NonNullable<typeof op.join>).attrs(attrs)),
    );
    for (const [i, value] of values.entries()) made.set(value, outputs[i] as Value);
  });
}

/** A value that is made of parameters, as a region has it. */
function valueIn(region: Region, value: Value, rewriter: Rewriter): Value {
  const known = region.made.get(value);
  if (known) return known;
  const { node } = value;
  const inputs = node.inputs.map((input) => input && valueIn(region, input, rewriter));
  const outputs = rewriter.graph.scoped(node.scope, () => rewriter.graph.add(node.op, inputs, node.attrs));
  for (const [i, output] of node.outputs.entries()) region.made.set(output, outputs[i] as Value);
  return region.made.get(value) as Value;
}
