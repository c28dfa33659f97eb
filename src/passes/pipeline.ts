import { envFlag } from '../core/env.js';
import type { Graph } from '../graph/graph.js';
import { printGraph } from '../graph/print.js';
import { verify } from '../graph/verify.js';
import { applyFactors } from './apply-factors.js';
import { foldCasts } from './fold-casts.js';
import { fuseAddends } from './fuse-addends.js';
import { fuseElementwise } from './fuse-elementwise.js';
import { fuseLatentHeads } from './fuse-latent-heads.js';
import { fuseResidualNorm } from './fuse-residual-norm.js';
import { joinCollectives } from './join-collectives.js';
import { joinSlices } from './join-slices.js';
import { lower } from './lower.js';
import { narrow, type Precision } from './narrow.js';
import { prune } from './prune.js';
import { type Kept, recompute } from './recompute.js';
import { schedule } from './schedule.js';
import { shardParameters } from './shard-parameters.js';
import { watchActivations } from './watch.js';

/** A rewrite of a graph that keeps what it computes. */
export type Pass = (graph: Graph) => Graph;

type Passes = readonly (readonly [name: string, pass: Pass])[];

/** What is fused has a gradient rule of its own, so that one rule serves both directions. */
const forwardFusions: Passes = [
  ['fuse-residual-norm', fuseResidualNorm],
  ['fuse-latent-heads', fuseLatentHeads],
  ['prune', prune],
];

/** Runs the passes of a graph that is yet to be differentiated. */
export function runForwardPasses(traced: Graph, precision: Precision): Graph {
  const isPlain = precision.dtype === 'fp32' && precision.layers.length === 0;
  const narrowing: Passes = isPlain ? [] : [['narrow', (graph) => narrow(graph, precision)]];
  return runPasses(traced, [['apply-factors', applyFactors], ...narrowing, ...forwardFusions]);
}

/** What makes other nodes of a whole graph's, in order. */
export const fusions: Passes = [
  ['lower', lower],
  ['apply-factors', applyFactors],
  ['join-slices', joinSlices],
  ...forwardFusions,
  ['fold-casts', foldCasts],
  ['fuse-addends', fuseAddends],
  ['fuse-elementwise', fuseElementwise],
];

/** Bytes of gradients that are summed over processes in one call. */
const defaultBucketBytes = 4 * 2 ** 20;

/**
 * What decides which nodes run when.
 *
 * @param kept - forward values that backward reads as they were
 * @param bucketBytes - of tensors that one collective is for
 */
export const ordering = (kept: Kept, bucketBytes = defaultBucketBytes): Passes => [
  ['recompute', (graph) => recompute(graph, kept)],
  ['schedule', schedule],
  ['join-collectives', (graph) => joinCollectives(graph, bucketBytes)],
  ['shard-parameters', shardParameters],
  ['watch-activations', watchActivations],
];

/** Every pass over a whole graph, in order. */
export const pipeline: Passes = [...fusions, ...ordering(() => true)];

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
