// What layers give on is looked at from time to time: its range, its zeros. Marked in the traced graph, where layers can be told
// by their scopes; measured in the finished one, whatever of it the passes between left in memory, so that being watched changes
// nothing. The measuring is a predicated range: a step that is not watched skips it.
import { isFloat } from '../core/dtype.js';
import { invariant } from '../core/errors.js';
import type { Graph, Node, Value } from '../graph/graph.js';
import { statisticNames, statistics } from '../ops/statistics.js';
import { layerOf } from './layers.js';
import { rewrite } from './rewrite.js';

/** Slots of {@link statistics} are named after the module whose output they are of. */
export const watchPrefix = 'watch/';

/** The input, int32 [1], that says whether a step measures. */
export const isWatchedInput = 'isWatched';

/** Marks the outputs of layers and of their parts (attention, MLP), by module: the last value of each that leaves it. */
export function markLayerOutputs(graph: Graph): void {
  const readers = new Map<Value, Set<string>>();
  for (const { inputs, scope } of graph.nodes) {
    for (const input of inputs) if (input) readers.set(input, (readers.get(input) ?? new Set()).add(scope));
  }
  for (const { scope, outputs } of graph.nodes) {
    for (const value of outputs.filter(({ dtype }) => isFloat(dtype))) {
      const scopes = [...(readers.get(value) ?? [])];
      for (const module of modulesOf(scope)) {
        if (scopes.some((reader) => !isWithin(reader, module))) graph.watched.set(module, value);
      }
    }
  }
}

/** The layer of a scope, and the part of the layer: `model.layers.3.mlp.shared_experts` is of `model.layers.3` and its `.mlp`. */
function modulesOf(scope: string): string[] {
  const layer = layerOf(scope);
  if (layer === null) return [];
  const [part] = scope.slice(layer.length + 1).split('.');
  return part ? [layer, `${layer}.${part}`] : [layer];
}

const isWithin = (scope: string, module: string) => scope === module || scope.startsWith(`${module}.`);

/** Measures what is marked, in slots of its own, where the step's input says so. The last pass: nothing may be fused with it. */
export function watchActivations(graph: Graph): Graph {
  if (graph.watched.size === 0) return graph;
  const isWatched = graph.input(isWatchedInput, [1], 'int32');
  const slots = [...graph.watched.keys()].map((name) => {
    graph.slot(watchPrefix + name, [statisticNames.length], 'fp32');
    return watchPrefix + name;
  });
  const sources = graph.nodes.slice(-1 - slots.length);
  const observers = graph.predicated(isWatched, () =>
    [...graph.watched].map(([name, value]) => graph.scoped(name, () => observe(value))),
  );
  for (const [i, { outputs }] of observers.entries()) graph.update(slots[i] as string, outputs[0] as Value);
  return withObservers(graph, sources, observers);
}

/** Measures a value. */
export function observe(value: Value): Node {
  return statistics(value).node;
}

/** The graph with each observer right behind what it looks at: it keeps nothing alive. @param first - nodes to begin with */
export function withObservers(graph: Graph, first: readonly Node[], observers: readonly Node[]): Graph {
  const behind = new Map<Node, Node[]>();
  for (const observer of observers) {
    const { node } = observer.inputs[0] as Value;
    behind.set(node, [...(behind.get(node) ?? []), observer]);
  }
  const moved = new Set([...first, ...observers]);
  const order = graph.nodes.filter((node) => !moved.has(node)).flatMap((node) => [node, ...(behind.get(node) ?? [])]);
  invariant(order.length + first.length === graph.nodes.length, 'an observer looks at nothing');
  return rewrite(graph, () => null, [...first, ...order]);
}
