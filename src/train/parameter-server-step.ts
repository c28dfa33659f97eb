// The programs of training with a parameter server. A worker's: forward and backward of a micro-batch (the step's `first`),
// and the gradient as it is pushed. The server's: the weighted sum of pushes, its norm, and the update.
import type { DType } from '../core/dtype.js';
import { bytesOf } from '../core/dtype.js';
import { sizeOf } from '../core/shape.js';
import { Graph, type Value } from '../graph/graph.js';
import { type Model, parametersOf } from '../models/model.js';
import { allReduce, broadcastFrom } from '../ops/collectives.js';
import { add, cast, finite, lessEqual, multiply, sqrt } from '../ops/elementwise.js';
import { concat } from '../ops/shape.js';
import { fill } from '../ops/sources.js';
import { squaredNorm } from '../ops/squared-norm.js';
import { clip, rememberNorm } from '../optim/clipping.js';
import { applyEma } from '../optim/ema.js';
import { trainableParameters } from '../optim/groups.js';
import { applyOptimizer } from '../optim/optimizer.js';
import { gradientPrefix } from '../optim/reduce-gradients.js';
import { type WorkingCopy, workingCopyPrefix } from '../passes/working-copies.js';
import { bestDType } from '../runtime/best-dtype.js';
import type { Plan, TensorSpec } from '../runtime/plan.js';
import { slotKinds } from './slots.js';
import { balanceRouter, type StepConfig } from './step.js';

/** Slots of what is pushed: of a worker where it is rounded, of the server where it arrives. */
const pushedPrefix = 'pushed/';

/** The format in which gradients are pushed. Losses and loads of experts are fp32 always. */
export type PushDType = Extract<DType, 'fp32' | 'bf16'>;

/** What a micro-batch contributes: gradients, losses, loads of experts. By name: the order in which they are pushed. */
export function contributionsIn(model: Model, { slots, outputs }: Plan): TensorSpec[] {
  const kindOf = slotKinds(model);
  const told = new Set(outputs.map(({ name }) => name));
  return slots
    .filter(({ name }) => !told.has(name) && ['gradient', 'passing'].includes(kindOf(name)))
    .sort((a, b) => (a.name < b.name ? -1 : 1));
}

/** Sums over the processes that are one worker what each contributed. */
export function traceBoxSum(contributions: readonly TensorSpec[], size: number): Graph {
  const graph = new Graph();
  const own = contributions.map(({ name, shape }) => graph.slot(name, shape, 'fp32'));
  const sums = allReduce(own, { axis: 'dp', size, op: 'sum', wire: 'fp32' });
  for (const [i, { name }] of contributions.entries()) graph.update(name, sums[i] as Value);
  return graph;
}

/** Gives the processes that are one worker the parameters that the first of them has. */
export function traceBoxShare(parameters: Iterable<TensorSpec>, size: number): Graph {
  const graph = new Graph();
  const all = [...parameters];
  const own = all.map(({ name, shape, dtype }) => graph.slot(name, shape, dtype));
  const shared = broadcastFrom(own, { axis: 'dp', size }, 0);
  for (const [i, { name }] of all.entries()) graph.update(name, shared[i] as Value);
  return graph;
}

/** The same as it is pushed. */
export function pushed(contributions: readonly TensorSpec[], dtype: PushDType): TensorSpec[] {
  return contributions.map(({ name, shape, dtype: own }) => {
    return { name: pushedPrefix + name, shape, dtype: name.startsWith(gradientPrefix) ? dtype : own };
  });
}

/** Bytes of tensors one after the other. */
export const bytesOfAll = (specs: readonly TensorSpec[]): number =>
  specs.reduce((sum, { dtype, shape }) => sum + bytesOf(dtype, sizeOf(shape)), 0);

/** Rounds a contribution to what is pushed of it. */
export function tracePush(contributions: readonly TensorSpec[], dtype: PushDType): Graph {
  const graph = new Graph();
  for (const [i, spec] of pushed(contributions, dtype).entries()) {
    const { name } = contributions[i] as TensorSpec;
    graph.slot(spec.name, spec.shape, spec.dtype);
    graph.update(spec.name, cast(graph.slot(name, spec.shape, 'fp32'), spec.dtype));
  }
  return graph;
}

/**
 * Adds a push to the sum of an update, or begins it: Σ weight · push, where loads, which are counts, have weight 1. Input
 * `weight`: fp32 [1], the push's tokens among those of the update.
 */
export function traceSum(contributions: readonly TensorSpec[], dtype: PushDType, part: 'first' | 'next'): Graph {
  const graph = new Graph();
  const weight = graph.input('weight', [1], 'fp32');
  for (const [i, spec] of pushed(contributions, dtype).entries()) {
    const { name, shape } = contributions[i] as TensorSpec;
    const push = cast(graph.slot(spec.name, shape, spec.dtype), 'fp32');
    const weighted = name.startsWith('load/') ? push : multiply(push, weight);
    const sum = graph.slot(name, shape, 'fp32');
    graph.update(name, part === 'first' ? weighted : add(sum, weighted));
  }
  return graph;
}

/** Output `squaredNorm`: Σ g² over the gradients summed, fp32 [1]. */
export function traceNorm(contributions: readonly TensorSpec[]): Graph {
  const graph = new Graph();
  const gradients = contributions.filter(({ name }) => name.startsWith(gradientPrefix));
  graph.output('squaredNorm', squaredNorm(gradients.map(({ name, shape }) => graph.slot(name, shape, 'fp32'))));
  return graph;
}

/** What evaluations read in the place of parameters, by these. @param refresh - the program that makes it; none in fp32 */
export function copiesIn(refresh: Plan | undefined): Map<string, WorkingCopy> {
  const copies = refresh?.slots.filter(({ name }) => name.startsWith(workingCopyPrefix)) ?? [];
  return new Map(
    copies.map(({ name: slot, shape, dtype }) => [
      slot.slice(workingCopyPrefix.length),
      { slot, shape, dtype: dtype as WorkingCopy['dtype'] },
    ]),
  );
}

/**
 * Clip, check that all is finite, update, report: as an update of one process, with the gradient that pushes summed up to.
 * Input `squaredNorm`: fp32 [1], its squared norm; what is not finite changes nothing.
 */
export function traceServerUpdate(
  model: Model,
  contributions: readonly TensorSpec[],
  copies: ReadonlyMap<string, WorkingCopy>,
  { optimizer, clip: clipping }: StepConfig,
): Graph {
  const graph = new Graph();
  const parameters = parametersOf(model);
  const summed = new Map(contributions.map(({ name, shape }) => [name, graph.slot(name, shape, 'fp32')]));
  const trainable = trainableParameters(parameters.values(), optimizer.groups);
  const grads = trainable.map(({ name }) => summed.get(gradientPrefix + name) as Value);
  const loads = [...summed].filter(([name]) => name.startsWith('load/'));

  const norm = sqrt(graph.input('squaredNorm', [1], 'fp32'));
  const clipped = clip(graph, grads, null, clipping, (some) => (some === grads ? norm : sqrt(squaredNorm(some))));
  const allFinite = finite(clipped.norm);
  const isSound = multiply(allFinite, lessEqual(clipped.norm, graph.input('skipAbove', [1], 'fp32')));
  graph.predicated(cast(isSound, 'int32'), () => {
    const rates = { lr: graph.input('lr', [1], 'fp32'), gradScale: clipped.scale };
    applyOptimizer(graph, trainable, clipped.grads, rates, optimizer, copies, bestDType());
    for (const [name, load] of loads) balanceRouter(graph, parameters, name.slice('load/'.length), load);
    rememberNorm(graph, clipped.norm, clipping);
    if (optimizer.emaDecay !== null) applyEma(graph, parameters, optimizer.emaDecay);
  });

  const losses = summed.get('losses') as Value;
  const report = [losses, clipped.norm, clipped.clippedNorm, isSound, allFinite, fill(graph, [1], 1)];
  graph.output('metrics', concat(report, 0));
  for (const [name, load] of loads) graph.output(name, load);
  return graph;
}
