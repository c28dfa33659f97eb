// Which forward values to give up first when memory is short: those that take the most bytes for the time it takes to compute
// them again. A layer is looked at once for all that are like it.
import type { Graph, Node, Value } from '../graph/graph.js';
import { rootOf } from '../graph/reads.js';
import { layerOf } from './layers.js';
import { type Kept, readsAgain, recomputable } from './recompute.js';
import { keptBy } from './recompute-policy.js';

/** Flops that take as long as a byte of traffic, as processors go; only the order of candidates hangs on it. */
const flopsPerByte = 16;

/** Layers that compute alike, each as its nodes in order. */
interface LayerKind {
  layers: Node[][];
}

/** Nodes of a kind of layer, by place, that are given up together. */
interface Step {
  kind: LayerKind;
  places: readonly number[];
  /** What it adds to the time of a layer, in bytes of traffic, and takes off its memory. */
  time: number;
  bytes: number;
}

/**
 * Ever smaller sets of values for backward to read as they were: from all of them to those that pass from layer to layer.
 * From one to the next, nodes of one more layer are given up; early layers first, for their values wait longest.
 */
export function recomputeCandidates(graph: Graph): Kept[] {
  const least = keptBy(graph, { every: 1 });
  const forBackward = new Set(
    graph.nodes.flatMap((node) =>
      node.isBackward ? node.inputs.flatMap((value) => (value ? [rootOf(value)] : [])) : [],
    ),
  );
  const steps = kindsOf(graph, least).map((kind) => stepsOf(kind, least, forBackward));
  const goneFrom = new Map<Value, number>();
  const candidates: Kept[] = [() => true];
  for (const { kind, places } of merged(steps)) {
    for (const nodes of kind.layers) {
      const now = candidates.length;
      for (const place of places)
        for (const output of (nodes[place] as Node).outputs)
          if (!least.has(output) && !goneFrom.has(output)) goneFrom.set(output, now);
      candidates.push((value) => (goneFrom.get(value) ?? Number.POSITIVE_INFINITY) > now);
    }
  }
  return [...candidates, (value) => least.has(value)];
}

function kindsOf(graph: Graph, least: ReadonlySet<Value>): LayerKind[] {
  const mayRunAgain = recomputable(graph);
  const layers = new Map<string, Node[]>();
  for (const node of graph.nodes) {
    const layer = layerOf(node.scope);
    const isOurs = mayRunAgain.has(node) && !node.op.isView && node.outputs.some((output) => !least.has(output));
    if (layer !== null && isOurs) layers.set(layer, [...(layers.get(layer) ?? []), node]);
  }
  const kinds = new Map<string, LayerKind>();
  for (const nodes of layers.values()) {
    const signature = nodes.map(({ op, outputs }) => `${op.name} ${outputs.map(({ type }) => type)}`).join();
    const kind = kinds.get(signature);
    if (kind) kind.layers.push(nodes);
    else kinds.set(signature, { layers: [nodes] });
  }
  return [...kinds.values()];
}

/** What to give up in a kind of layer, the best first, until nothing but what passes from layer to layer is left. */
function stepsOf(kind: LayerKind, least: ReadonlySet<Value>, forBackward: ReadonlySet<Value>): Step[] {
  const nodes = kind.layers[0] as Node[];
  const gone = new Set<Value>();
  const steps: Step[] = [];
  let now = cost(nodes, gone, forBackward);
  for (;;) {
    let best: Step | null = null;
    for (const first of now.stored) {
      if (least.has(first)) continue;
      const places = new Set<number>();
      const then = new Set(gone);
      // What must then be kept instead may be given up with it.
      for (let more: Node[] = [first.node]; more.length > 0; ) {
        for (const node of more) {
          places.add(nodes.indexOf(node));
          for (const output of node.outputs) if (!least.has(output)) then.add(output);
        }
        const after = cost(nodes, then, forBackward);
        const step = { kind, places: [...places], time: after.time - now.time, bytes: now.bytes - after.bytes };
        if (step.bytes > 0 && (!best || step.bytes * best.time > best.bytes * step.time)) best = step;
        more = [...after.stored].filter((value) => !now.stored.has(value) && !least.has(value)).map(({ node }) => node);
      }
    }
    if (!best) return steps;
    steps.push(best);
    for (const place of best.places)
      for (const output of (nodes[place] as Node).outputs) if (!least.has(output)) gone.add(output);
    now = cost(nodes, gone, forBackward);
  }
}

/** What a layer keeps for backward when some of its values are gone, and how long it takes to compute these again. */
function cost(nodes: readonly Node[], gone: ReadonlySet<Value>, forBackward: ReadonlySet<Value>) {
  const own = new Set(nodes.flatMap(({ outputs }) => outputs));
  const stored = new Set<Value>();
  const again = new Set<Node>();
  const need = (value: Value) => {
    const root = rootOf(value);
    if (!own.has(root)) return;
    if (!gone.has(root)) stored.add(root);
    else if (!again.has(root.node)) {
      again.add(root.node);
      for (const read of readsAgain(root.node, (output) => !gone.has(output))) need(read);
    }
  };
  for (const value of own) if (forBackward.has(value)) need(value);
  const bytes = [...stored].reduce((sum, value) => sum + value.bytes, 0);
  return { stored, bytes, time: [...again].reduce((sum, node) => sum + timeOf(node), 0) };
}

function timeOf({ op, inputs, outputs, attrs }: Node): number {
  const traffic = [...inputs, ...outputs].reduce((sum, value) => sum + (value?.bytes ?? 0), 0);
  return traffic + (op.cost?.(inputs, outputs, attrs).flops ?? 0) / flopsPerByte;
}

/** Steps of all kinds, the best first; those of one kind stay in order. */
function merged(lists: readonly (readonly Step[])[]): Step[] {
  const rest = lists.map((list) => [...list]);
  const all: Step[] = [];
  for (;;) {
    const next = rest.reduce<Step[] | null>((best, list) => {
      const [a, b] = [list[0], best?.[0]];
      return a && (!b || a.bytes * b.time > b.bytes * a.time) ? list : best;
    }, null);
    if (!next) return all;
    all.push(next.shift() as Step);
  }
}
