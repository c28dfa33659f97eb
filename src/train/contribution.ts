// What micro-batches contribute to an update, and what becomes of that where several processes train together.
import type { Graph, Value } from '../graph/graph.js';
import { allReduce } from '../ops/collectives.js';
import { add, divide, maximum } from '../ops/elementwise.js';
import { slice } from '../ops/shape.js';
import { globalNorm } from '../optim/clipping.js';
import { type DistConfig, dataRanks } from '../optim/dist-config.js';
import { gradientPrefix, reduceGradients, reduceSums } from '../optim/reduce-gradients.js';
import { isSharded, normOfShards, scatterGradients } from '../optim/zero.js';
import type { LossScales } from './losses.js';
import type { StepPart } from './step.js';

/** What is counted of an update's rows, over all processes: what its losses are means over, and who wants to stop. */
export const countNames = ['rows', 'tokens', 'stop', 'labels'] as const;

/** What a micro-batch contributes to an update; also the slots that sum it, by name. */
export type Contribution = Map<string, Value>;

/** What micro-batches contributed so far, this one included. */
export function addedToSlots(graph: Graph, own: Contribution): Contribution {
  return new Map([...own].map(([name, value]) => [name, add(graph.slot(name, value.shape, value.dtype), value)]));
}

const isGradient = (name: string) => name.startsWith(gradientPrefix);
export const othersIn = (contribution: Contribution) => [...contribution].filter(([name]) => !isGradient(name));
const gradientsIn = (contribution: Contribution) => [...contribution].filter(([name]) => isGradient(name));

/** What all processes contributed; of gradients, where parameters lie in shards, this process's. */
export function reduced(graph: Graph, own: Contribution, dist: DistConfig): Contribution {
  const others = othersIn(own);
  const sums = reduceSums(
    others.map(([, value]) => value),
    dist,
  );
  const summed = dist.zero === 0 ? reducedWhole(graph, own, dist) : dist.zero === 1 ? scattered(own, dist) : own;
  return new Map([...gradientsIn(summed), ...others.map(([name], i): [string, Value] => [name, sums[i] as Value])]);
}

function reducedWhole(graph: Graph, own: Contribution, dist: DistConfig): Contribution {
  const gradients = gradientsIn(own).map(([name, value]) => ({ name: name.slice(gradientPrefix.length), value }));
  const summed = reduceGradients(graph, gradients, dist);
  return new Map(gradients.map(({ name }, i) => [gradientPrefix + name, summed[i] as Value]));
}

/** The same with this process's shards of the sums of gradients over all. */
export function scattered(own: Contribution, dist: DistConfig): Contribution {
  const gradients = gradientsIn(own);
  const shards = scatterGradients(
    gradients.map(([, value]) => value),
    dist,
  );
  return new Map([...own, ...gradients.map(([name], i): [string, Value] => [name, shards[i] as Value])]);
}

/**
 * What is counted of an update over all processes, by {@link countNames} and MTP depth. The first program of an update sums it
 * while the forward pass begins.
 */
export function globalCounts(graph: Graph, part: StepPart, mtpDepth: number, dist: DistConfig): Value {
  const shape = [countNames.length + mtpDepth];
  if (part === 'next' || part === 'last') return graph.slot('counts', shape, 'fp32');
  const [counts] = reduceSums([graph.input('counts', shape, 'fp32')], dist, true);
  graph.output('counts', counts as Value);
  return counts as Value;
}

/** Divides the weights of the terms by what they are the means over. */
export function overAllProcesses({ main, mtp, balance }: LossScales, counts: Value): LossScales {
  const over = (weight: Value, index: number) => divide(weight, maximum(slice(counts, 0, index, index + 1), 1));
  const labels = countNames.indexOf('labels');
  return {
    main: over(main, labels),
    mtp: mtp.map((weight, k) => over(weight, labels + 1 + k)),
    balance: over(balance, countNames.indexOf('rows')),
  };
}

/** One norm for all processes: whatever follows from it they decide alike, on whatever processors they run. */
export function normOf(grads: readonly Value[], dist: DistConfig | null): Value {
  if (isSharded(dist)) return normOfShards(grads, dist);
  const norm = globalNorm(grads);
  return dist ? (allReduce([norm], { ...dataRanks(dist), op: 'max', wire: 'fp32' })[0] as Value) : norm;
}
