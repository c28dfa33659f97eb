// A finished program made to tell where its numbers go wrong: every float that it reads from outside or computes is looked at
// right behind the node that made it, and nothing is changed but one table of statistics.
import { type DType, isFloat } from '../core/dtype.js';
import type { Shape } from '../core/shape.js';
import type { Graph, Node, Value } from '../graph/graph.js';
import { reads, rootOf } from '../graph/reads.js';
import { concat, reshape } from '../ops/shape.js';
import { statisticNames } from '../ops/statistics.js';
import { prune } from './prune.js';
import { observe, withObservers } from './watch.js';

/** The output that holds the statistics, fp32 [rows, 5]. */
export const numericsOutput = 'numerics';

/** A node that is looked at. */
export interface TracedNode {
  op: string;
  /** Layer path. */
  scope: string;
  /** 'update': what is made of gradients, such as their norm. */
  direction: 'forward' | 'backward' | 'update';
  /** Of what comes from outside: the slot's or the input's name. */
  name: string | null;
  /** Values it reads, as numbers of {@link TracedNumerics.values}. */
  inputs: number[];
  outputs: number[];
}

/** What a traced program looks at, in the order it runs. */
export interface TracedNumerics {
  nodes: TracedNode[];
  /** A row of the table each. */
  values: { shape: Shape; dtype: DType }[];
}

/**
 * Adds the table to a program that all other passes have been through, and leaves out what only updates state.
 *
 * @returns the program, whose one output is the table, and what its rows are
 */
export function traceNumerics(source: Graph): { graph: Graph; traced: TracedNumerics } {
  source.updates.clear();
  source.watched.clear();
  const graph = prune(source);
  graph.outputs.clear();
  const rows = new Map<Value, number>();
  const isRead = new Set(graph.nodes.flatMap((node) => reads(node).map(rootOf)));
  const ofGradients = new Set<number>();
  const nodes: TracedNode[] = [];
  for (const node of graph.nodes) {
    const traced = node.op.isView ? null : tracedNode(node, rows, isRead, ofGradients);
    if (!traced) continue;
    nodes.push(traced);
    if (traced.direction !== 'forward') for (const row of traced.outputs) ofGradients.add(row);
  }
  const observers = [...rows.keys()].map(observe);
  const table = observers.map(({ outputs: [row] }) => reshape(row as Value, [1, statisticNames.length]));
  graph.output(numericsOutput, concat(table, 0));
  const values = [...rows.keys()].map(({ shape, dtype }) => ({ shape, dtype }));
  return { graph: withObservers(graph, [], observers), traced: { nodes, values } };
}

/** Gives the float outputs that are read rows of their own; null where a node has none, or is fixed. */
function tracedNode(
  node: Node,
  rows: Map<Value, number>,
  isRead: ReadonlySet<Value>,
  ofGradients: ReadonlySet<number>,
): TracedNode | null {
  const { op, scope, isBackward, attrs } = node;
  const outputs = node.outputs.filter((value) => isFloat(value.dtype) && value.size > 0 && isRead.has(value));
  if (outputs.length === 0 || (op.isSource && typeof attrs.name !== 'string')) return null;
  const inputs = [...new Set(reads(node).map(rootOf))].flatMap((value) => rows.get(value) ?? []);
  const isOfGradients = inputs.some((row) => ofGradients.has(row));
  for (const output of outputs) rows.set(output, rows.size);
  return {
    op: op.name,
    scope,
    direction: isBackward ? 'backward' : isOfGradients ? 'update' : 'forward',
    name: op.isSource ? (attrs.name as string) : null,
    inputs,
    outputs: outputs.map((value) => rows.get(value) as number),
  };
}
