// Chains and trees of elementwise ops become one expression, so that memory is passed over once. A node joins its user
// when that user is its only one, both run in the same place, and the expression stays within the kernel's limits.
import { isFloat } from '../core/dtype.js';
import { sameShape } from '../core/shape.js';
import type { Graph, Node, Value } from '../graph/graph.js';
import { defineOp } from '../ops/define-op.js';
import { castDType, elementwiseName, extentOf } from '../ops/elementwise.js';
import {
  constantNumber,
  elementwiseCall,
  expressionLimits,
  opcodes,
  type Step,
} from '../ops/elementwise-expression.js';
import { rewrite } from './rewrite.js';

type FusedAttrs = { steps: readonly Step[]; shape: readonly number[]; dtype: Value['dtype']; names: string };

/** An expression over its inputs. Made by this pass only, after differentiation. */
const fusedOp = defineOp<FusedAttrs, readonly Value[], [Value]>({
  name: 'fused-elementwise',
  isElementwise: true,
  infer: (inputs, { shape, dtype }) => [{ shape, dtype, extent: extentOf(shape, inputs) }],
  cost: (inputs, [y], { steps }) => ({
    flops: y.size * steps.filter((step) => 'op' in step).length,
    bytesRead: inputs.reduce((bytes, input) => bytes + input.bytes, 0),
    bytesWritten: y.bytes,
  }),
  kernel: (inputs, [y], { steps }) => elementwiseCall(y, inputs, steps),
});

/** An expression and the values it is over. */
interface Expression {
  inputs: Value[];
  steps: Step[];
}

/** Fuses elementwise ops. */
export function fuseElementwise(graph: Graph): Graph {
  const users = new Map<Value, number>();
  const kept = new Set([...graph.updates.values(), ...graph.outputs.values()]);
  const note = (value: Value | null) => value && users.set(value, (users.get(value) ?? 0) + 1);
  for (const node of graph.nodes) {
    for (const input of node.inputs) note(input);
    note(node.predicate);
    for (const output of node.outputs) if (output.extent !== null && output.extent.node !== node) note(output.extent);
  }
  const expressions = new Map<Node, Expression>();
  const absorbed = new Set<Node>();
  const backward = new Set<Node>();
  for (const node of graph.nodes) {
    const expression = build(node, (value) => {
      const joins = users.get(value) === 1 && !kept.has(value) && mayJoin(value.node, node);
      return joins ? (expressions.get(value.node) ?? null) : null;
    });
    if (!expression) continue;
    expressions.set(node, expression);
    for (const input of node.inputs) {
      if (!input || !expressions.has(input.node) || expression.inputs.includes(input)) continue;
      absorbed.add(input.node);
      if (input.node.isBackward || backward.has(input.node)) backward.add(node);
    }
  }
  return rewrite(graph, (node, { graph: target, of }) => {
    if (absorbed.has(node)) return 'drop';
    const expression = expressions.get(node);
    const joined = node.inputs.some((input) => input && absorbed.has(input.node));
    if (!expression || !joined) return null;
    const output = node.outputs[0] as Value;
    const attrs = { steps: expression.steps, shape: output.shape, dtype: output.dtype, names: node.op.name };
    const fused = target.add(fusedOp, expression.inputs.map(of), attrs);
    fused[0].node.isBackward = backward.has(node);
    return fused;
  });
}

function mayJoin(node: Node, user: Node): boolean {
  const [from, to] = [node.outputs[0] as Value, user.outputs[0] as Value];
  return (
    node.predicate === user.predicate &&
    node.queue === user.queue &&
    sameShape(from.shape, to.shape) &&
    from.extent === to.extent &&
    // What a cast rounds must stay rounded; that other results are rounded, too, is only for the memory they take.
    (from.dtype === 'fp32' || (isFloat(from.dtype) && castDType(node) === null))
  );
}

/** The node as an expression, with what its inputs can contribute; null when it is none or the whole would be too big. */
function build(node: Node, contribution: (value: Value) => Expression | null): Expression | null {
  const name = elementwiseName(node.op);
  // A predicated result keeps its old content in place; it stays a node of its own.
  if (!name || node.predicate) return null;
  const inputs: Value[] = [];
  const steps: Step[] = [];
  const push = (value: Value) => {
    const known = inputs.indexOf(value);
    steps.push({ input: known === -1 ? inputs.push(value) - 1 : known });
  };
  for (const value of node.inputs as readonly Value[]) {
    const part = contribution(value);
    if (!part) push(value);
    else for (const step of part.steps) 'input' in step ? push(part.inputs[step.input] as Value) : steps.push(step);
  }
  if (name !== 'cast') steps.push({ op: opcodes[name] });
  if (fits(inputs, steps)) return { inputs, steps };
  const own = [...new Set(node.inputs as readonly Value[])];
  const plain: Step[] = (node.inputs as readonly Value[]).map((value) => ({ input: own.indexOf(value) }));
  return { inputs: own, steps: name === 'cast' ? plain : [...plain, { op: opcodes[name] }] };
}

function fits(inputs: readonly Value[], steps: readonly Step[]): boolean {
  const { codeBytes, constants, stack, inputs: maxInputs, rank } = expressionLimits;
  let depth = 0;
  let deepest = 0;
  for (const step of steps) {
    depth += 'op' in step ? 1 - arity(step.op) : 1;
    deepest = Math.max(deepest, depth);
  }
  const tensors = inputs.filter((value) => constantNumber(value) === null);
  return (
    tensors.length <= maxInputs &&
    inputs.length - tensors.length <= constants &&
    steps.length * 2 <= codeBytes &&
    deepest <= stack &&
    inputs.every((value) => value.shape.length <= rank)
  );
}

const arity = (op: number) => (op < 16 ? 2 : op < 48 ? 1 : 3);
