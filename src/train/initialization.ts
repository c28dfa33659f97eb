import { Graph } from '../graph/graph.js';
import { type Model, parametersOf } from '../models/model.js';
import { randomFill } from '../ops/random.js';
import { fill } from '../ops/sources.js';
import { isSharded, readShard, shardOfWhole, shardPrefix } from '../optim/zero.js';
import { trainedNames } from './shards.js';
import type { StepConfig } from './step.js';

/**
 * Traces the program that writes every parameter's beginning into its slot. Input `key`: int32 [2], the run's seed.
 *
 * @param config - says which parameters lie in shards: each is made whole in its turn, and its shard kept; default: none
 */
export function traceInitialization(model: Model, config?: Pick<StepConfig, 'optimizer' | 'dist'>): Graph {
  const graph = new Graph();
  const key = graph.input('key', [2], 'int32');
  const parameters = parametersOf(model);
  const dist = config?.dist ?? null;
  const trained = config ? trainedNames(parameters, config) : new Set<string>();
  let stream = 0;
  for (const { name, shape, dtype, initializer } of parameters.values()) {
    const at = stream++;
    const value =
      initializer.kind === 'normal'
        ? randomFill(key, shape, dtype, { stream: at, distribution: 'normal', mean: 0, std: initializer.std })
        : fill(graph, shape, initializer.kind === 'ones' ? 1 : 0, dtype);
    if (isSharded(dist) && trained.has(name)) {
      readShard(graph, { name, shape }, dist);
      graph.update(shardPrefix + name, shardOfWhole(value, dist));
    } else {
      graph.slot(name, shape, dtype);
      graph.update(name, value);
    }
  }
  return graph;
}
