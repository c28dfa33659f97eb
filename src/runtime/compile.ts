import { debug } from '../core/env.js';
import type { Graph } from '../graph/graph.js';
import { runPasses } from '../passes/pipeline.js';
import { type Plan, plan } from './plan.js';

/** Passes, then the memory plan. */
export function compile(graph: Graph, threads: number): Plan {
  const begin = performance.now();
  const planned = plan(runPasses(graph), threads);
  debug(1, () => {
    const ms = (performance.now() - begin).toFixed(0);
    return `compiled ${graph.nodes.length} nodes to ${planned.instructions.length} instructions, arena ${(planned.arenaBytes / 2 ** 20).toFixed(1)} MiB, in ${ms} ms`;
  });
  return planned;
}
