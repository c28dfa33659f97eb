import { Graph } from '../graph/graph.js';
import { type Model, parametersOf } from '../models/model.js';
import { randomFill } from '../ops/random.js';
import { fill } from '../ops/sources.js';

/** Traces the program that writes every parameter's beginning into its slot. Input `key`: int32 [2], the run's seed. */
export function traceInitialization(model: Model): Graph {
  const graph = new Graph();
  const key = graph.input('key', [2], 'int32');
  let stream = 0;
  for (const { name, shape, dtype, initializer } of parametersOf(model).values()) {
    const at = stream++;
    graph.slot(name, shape, dtype);
    const value =
      initializer.kind === 'normal'
        ? randomFill(key, shape, dtype, { stream: at, distribution: 'normal', mean: 0, std: initializer.std })
        : fill(graph, shape, initializer.kind === 'ones' ? 1 : 0, dtype);
    graph.update(name, value);
  }
  return graph;
}
