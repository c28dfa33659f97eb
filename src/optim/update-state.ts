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
  /** The slot with the numbers that this process updates, in which shape; left out: all of them, in the slot of its name. */
  shard?: HeldIn;
}

/** A slot and its shape. */
interface HeldIn {
  slot: string;
  shape: Shape;
}

/** Where the numbers of a parameter that this process updates are. */
const heldIn = ({ name, shape, shard }: OptimizedParameter): HeldIn => shard ?? { slot: name, shape };

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
  const { slot, shape } = heldIn(parameter);
  return { ...own, param: graph.slot(slot, shape, parameter.dtype), copy: copy?.dtype ?? null };
}

/** What is remembered of a parameter: the slot `<kind>/<name>`, in the shape of what is updated. */
export const stateSlot = (graph: Graph, kind: string, { parameter }: Updated, dtype: DType): Value =>
  graph.slot(`${kind}/${parameter.name}`, heldIn(parameter).shape, dtype);

/** Puts what an op made of a parameter into its slots. @param state - by kind of slot */
export function updateSlots(
  graph: Graph,
  { parameter, copy }: Updated,
  made: { param: Value; copy: Value | null },
  state: Readonly<Record<string, Value>>,
): void {
  const { slot, shape } = heldIn(parameter);
  graph.update(slot, made.param);
  for (const [kind, value] of Object.entries(state)) graph.update(`${kind}/${parameter.name}`, value);
  if (!copy || !made.copy) return;
  graph.slot(copy.slot, shape, copy.dtype);
  graph.update(copy.slot, made.copy);
}
