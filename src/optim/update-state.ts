// What optimizers share: the parameters they are given, their slots, and the count of updates.
import type { DType } from '../core/dtype.js';
import type { Shape } from '../core/shape.js';
import type { Graph, Value } from '../graph/graph.js';
import { add } from '../ops/elementwise.js';

/** What the optimizer needs to know of a parameter. */
export interface OptimizedParameter {
  name: string;
  shape: Shape;
  dtype: DType;
  /** Whether weight decay applies. */
  decay: boolean;
  /** Matrices that lie in it one after the other; left out: it is one, or a stack of them. */
  parts?: readonly { shape: Shape }[];
}

/** A parameter in 16 bits, which programs read in its place. */
export interface WorkingCopy {
  slot: string;
  dtype: DType;
}

/** A parameter with its gradient, and what its group says. */
export interface Updated {
  parameter: OptimizedParameter;
  grad: Value;
  weightDecay: number;
  l4Decay: number;
  lrRatio: number;
  copy: WorkingCopy | null;
}

/** What varies between updates, fp32 [1] each. */
export interface UpdateRates {
  lr: Value;
  /** Factor on the gradients: clipping, and 1 / loss scale. */
  gradScale: Value;
}

/** Slot that counts updates, fp32 [1] (exact to 2^24). */
export const updatesSlot = 'state/updates';

/** Counts this update. @returns updates made, this one included */
export function countUpdate(graph: Graph): Value {
  const updates = add(graph.slot(updatesSlot, [1], 'fp32'), 1);
  graph.update(updatesSlot, updates);
  return updates;
}

/** What ops of tensors want to know of a parameter, beside its state. */
export function updatedTensor(graph: Graph, { parameter, copy, ...own }: Updated) {
  const { name, shape, dtype } = parameter;
  return { ...own, param: graph.slot(name, shape, dtype), copy: copy?.dtype ?? null };
}

/** What is remembered of a parameter: the slot `<kind>/<name>`, in its shape. */
export const stateSlot = (graph: Graph, kind: string, { parameter }: Updated, dtype: DType): Value =>
  graph.slot(`${kind}/${parameter.name}`, parameter.shape, dtype);

/** Puts what an op made of a parameter into its slots. @param state - by kind of slot */
export function updateSlots(
  graph: Graph,
  { parameter: { name, shape }, copy }: Updated,
  made: { param: Value; copy: Value | null },
  state: Readonly<Record<string, Value>>,
): void {
  graph.update(name, made.param);
  for (const [kind, value] of Object.entries(state)) graph.update(`${kind}/${name}`, value);
  if (!copy || !made.copy) return;
  graph.slot(copy.slot, shape, copy.dtype);
  graph.update(copy.slot, made.copy);
}
