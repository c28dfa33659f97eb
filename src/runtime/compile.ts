import { debug } from '../core/env.js';
import type { Graph } from '../graph/graph.js';
import { withoutKernels } from '../passes/lower.js';
import { fusions, ordering, runPasses } from '../passes/pipeline.js';
import type { Kept } from '../passes/recompute.js';
import { recomputeCandidates } from '../passes/recompute-candidates.js';
import { keptBy, type RecomputePolicy } from '../passes/recompute-policy.js';
import { type IsOffloaded, type Plan, plan } from './plan.js';
import { type Target, targetOf } from './target.js';

/** What a graph is compiled for. */
export interface CompileOptions {
  /** Forward values that backward computes again instead of reading them; default: none. */
  recompute?: RecomputePolicy | { withinBytes: number } | { candidate: number };
  /** Slots that lie in a file; default: none. */
  isOffloaded?: IsOffloaded | undefined;
  /** Bytes of tensors that one collective is for; default: as passes/pipeline.ts has it. */
  bucketBytes?: number | undefined;
}

/**
 * Passes, then the memory plan.
 *
 * @param options - `recompute: { withinBytes }`: the least recomputation whose plan's arena is no larger; the smallest plan
 *   there is where none is. `recompute: { candidate }`: as much as the plan that says so
 */
export function compile(
  graph: Graph,
  target: Target,
  { recompute = 'none', isOffloaded, bucketBytes }: CompileOptions = {},
): Plan {
  const begin = performance.now();
  const fused = withoutKernels(runPasses(graph, fusions), targetOf(target).without);
  const planKept = (kept: Kept) => plan(runPasses(fused, ordering(kept, bucketBytes)), target, isOffloaded);
  let planned: Plan;
  if (typeof recompute === 'object' && 'withinBytes' in recompute)
    planned = planWithin(recomputeCandidates(fused), recompute.withinBytes, planKept);
  else if (typeof recompute === 'object' && 'candidate' in recompute)
    planned = planKept(recomputeCandidates(fused)[recompute.candidate] as Kept);
  else {
    const kept = keptBy(fused, recompute);
    planned = planKept((value) => kept.has(value));
  }
  debug(1, () => {
    const ms = (performance.now() - begin).toFixed(0);
    return `compiled ${graph.nodes.length} nodes to ${planned.instructions.length} instructions, arena ${(planned.arenaBytes / 2 ** 20).toFixed(1)} MiB, in ${ms} ms`;
  });
  return planned;
}

/** The graph as {@link compile} plans it. */
export function finished(graph: Graph, recompute: RecomputePolicy): Graph {
  const fused = runPasses(graph, fusions);
  const kept = keptBy(fused, recompute);
  return runPasses(
    fused,
    ordering((value) => kept.has(value)),
  );
}

/** The first plan that fits; candidates recompute ever more. */
function planWithin(candidates: readonly Kept[], bytes: number, planKept: (kept: Kept) => Plan): Plan {
  const planCandidate = (candidate: number) => ({ ...planKept(candidates[candidate] as Kept), candidate });
  let best = planCandidate(0);
  let [low, high] = [1, best.arenaBytes <= bytes ? 0 : candidates.length - 1];
  while (low <= high) {
    const middle = Math.floor((low + high) / 2);
    const planned = planCandidate(middle);
    const fits = planned.arenaBytes <= bytes;
    if (fits || planned.arenaBytes < best.arenaBytes) best = planned;
    if (fits) high = middle - 1;
    else low = middle + 1;
  }
  return best;
}
