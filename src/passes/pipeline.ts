import { envFlag } from '../core/env.js';
import type { Graph } from '../graph/graph.js';
import { printGraph } from '../graph/print.js';
import { verify } from '../graph/verify.js';
import { accumulateEarly } from './accumulate-early.js';
import { fuseElementwise } from './fuse-elementwise.js';
import { prune } from './prune.js';

/** A rewrite of a graph that keeps what it computes. */
export type Pass = (graph: Graph) => Graph;

/** Every pass, in order. */
export const pipeline: readonly (readonly [name: string, pass: Pass])[] = [
  ['prune', prune],
  ['fuse-elementwise', fuseElementwise],
  ['accumulate-early', accumulateEarly],
];

/** Runs the passes; `HADAL_VERIFY=1` checks the graph after each, `HADAL_DEBUG=3` prints it. */
export function runPasses(traced: Graph, passes = pipeline): Graph {
  let graph = traced;
  if (envFlag('HADAL_VERIFY')) verify(graph);
  for (const [name, pass] of passes) {
    graph = pass(graph);
    if (envFlag('HADAL_VERIFY')) verify(graph);
    if (envFlag('HADAL_DEBUG') >= 3) process.stderr.write(`--- after ${name}\n${printGraph(graph)}\n`);
  }
  return graph;
}
