// Reverse-mode differentiation over the gradient rules that live with the ops. The gradient is a graph like any other,
// so it can be differentiated again.
import { isFloat } from '../core/dtype.js';
import { HadalError } from '../core/errors.js';
import type { Node, Value } from '../graph/graph.js';
import type { Inputs } from '../graph/op.js';
import { add, cast } from '../ops/elementwise.js';
import { sumTo } from '../ops/reduce.js';
import { bound, reshape } from '../ops/shape.js';
import { scalar, zerosLike } from '../ops/sources.js';

/**
 * Gradients of a scalar by each of `wrt`, in their shapes and dtypes; zeros where the loss does not depend on one.
 * Only what `wrt` needs is built.
 *
 * @param loss - one element, float
 * @throws HadalError HADAL_ERR_SHAPE when the loss is not a single number
 */
export function gradients(loss: Value, wrt: readonly Value[]): Value[] {
  if (loss.size !== 1)
    throw new HadalError('HADAL_ERR_SHAPE', `[gradients] expected a loss of one element, got ${loss.type}`);
  const { graph } = loss.node;
  return graph.differentiating(() => {
    const seed = reshape(cast(scalar(graph, 1), loss.dtype), loss.shape);
    const found = pullBack(new Map([[loss, seed]]), wrt);
    return wrt.map((value) => found.get(value) ?? zerosLike(value));
  });
}

/**
 * Carries gradients from values back to `wrt`.
 *
 * @param seeds - gradient by each value it starts from
 * @param firstNode - no path leads through nodes before this one
 */
function pullBack(seeds: ReadonlyMap<Value, Value>, wrt: readonly Value[], firstNode = 0): Map<Value, Value> {
  const flowing = new Map<Value, Value>(seeds);
  const first = seeds.keys().next().value;
  if (!first) return flowing;
  const { nodes } = first.node.graph;
  const last = Math.max(...[...seeds.keys()].map((value) => value.node.id));
  const targets = new Set(wrt);
  const carriers = dependents(nodes.slice(firstNode, last + 1), targets);

  for (let id = last; id >= firstNode; id--) {
    const node = nodes[id] as Node;
    if (!carriers.has(node) || !node.outputs.some((output) => flowing.has(output))) continue;
    const needs = node.inputs.map((input) => input !== null && (targets.has(input) || carriers.has(input.node)));
    const incoming = node.outputs.map((output) => flowing.get(output) ?? null);
    const outgoing = node.graph.beside(node, () => differentiate(node, incoming, needs));
    for (const [i, input] of node.inputs.entries()) {
      const gradient = outgoing[i];
      if (!input || !gradient || !needs[i] || !isFloat(input.dtype)) continue;
      node.graph.beside(node, () => {
        const unbounded = cast(sumTo(gradient, input.shape), input.dtype);
        const fitted = input.extent ? bound(unbounded, input.extent) : unbounded;
        const before = flowing.get(input);
        flowing.set(input, before ? add(before, fitted) : fitted);
      });
    }
  }
  return flowing;
}

/** Nodes through which a change of the targets reaches anything. */
function dependents(nodes: readonly Node[], targets: ReadonlySet<Value>): Set<Node> {
  const found = new Set<Node>();
  for (const node of nodes) {
    if (node.inputs.some((input) => input !== null && (targets.has(input) || found.has(input.node)))) found.add(node);
  }
  return found;
}

/** Gradients by a node's inputs, by its own rule or through its lowered form. */
function differentiate(
  node: Node,
  incoming: readonly (Value | null)[],
  needs: readonly boolean[],
): readonly (Value | null)[] {
  const { op, inputs, outputs, attrs } = node;
  const byRule = op.vjp && incoming.every((gradient, i) => !gradient || (op.vjpOutputs?.includes(i) ?? true));
  if (op.vjp && byRule) return op.vjp({ inputs, outputs, gradients: incoming, attrs, needs });
  if (!op.lower) {
    throw new HadalError(
      'HADAL_ERR_INTERNAL',
      `[gradients] op '${op.name}' in ${node.scope || 'the graph'} has no gradient`,
    );
  }
  const firstNode = node.graph.nodes.length;
  // Inputs enter the lowered form through names of their own: a value given twice gets two gradients.
  const entries: Inputs = inputs.map((input) => input && node.graph.alias(input));
  const lowered = op.lower(entries, attrs);
  const seeds = new Map<Value, Value>();
  for (const [i, gradient] of incoming.entries()) {
    const value = lowered[i];
    if (gradient && value) seeds.set(value, seeds.has(value) ? add(seeds.get(value) as Value, gradient) : gradient);
  }
  const wanted = entries.filter((entry, i): entry is Value => entry !== null && needs[i] === true);
  const found = pullBack(seeds, wanted, firstNode);
  return entries.map((entry, i) => (entry && needs[i] ? (found.get(entry) ?? null) : null));
}
