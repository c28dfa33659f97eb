// AdamW over all parameters of a step: slots for the moments, one count of updates, decay by parameter.
import type { DType } from '../core/dtype.js';
import type { Shape } from '../core/shape.js';
import type { Graph, Value } from '../graph/graph.js';
import { adamw } from '../ops/adamw.js';
import { add, exp, multiply, subtract } from '../ops/elementwise.js';

/** What does not vary between updates. */
export interface AdamwConfig {
  beta1: number;
  beta2: number;
  eps: number;
  weightDecay: number;
}

/** What the optimizer needs to know of a parameter. */
export interface OptimizedParameter {
  name: string;
  shape: Shape;
  dtype: DType;
  /** Whether weight decay applies. */
  decay: boolean;
}

/** Slot that counts updates, fp32 [1] (exact to 2^24). */
export const updatesSlot = 'state/updates';

/** Slots of a parameter's moments. */
export const momentSlots = (name: string): [m: string, v: string] => [`adam.m/${name}`, `adam.v/${name}`];

/** Updates every parameter by its gradient. @param lr - fp32 [1] @param gradScale - fp32 [1], clipping */
export function applyAdamw(
  graph: Graph,
  parameters: readonly OptimizedParameter[],
  grads: readonly Value[],
  { lr, gradScale }: { lr: Value; gradScale: Value },
  { weightDecay, ...config }: AdamwConfig,
): void {
  const updates = add(graph.slot(updatesSlot, [1], 'fp32'), 1);
  graph.update(updatesSlot, updates);
  // 1 − β^n
  const correction = (beta: number) => subtract(1, exp(multiply(updates, Math.log(beta))));
  const inputs = { lr, gradScale, correction1: correction(config.beta1), correction2: correction(config.beta2) };
  for (const [i, { name, shape, dtype, decay }] of parameters.entries()) {
    const slots = [name, ...momentSlots(name)];
    const [param, m, v] = slots.map((slot, n) => graph.slot(slot, shape, n === 0 ? dtype : 'fp32')) as [
      Value,
      Value,
      Value,
    ];
    const next = adamw(param, grads[i] as Value, m, v, inputs, { ...config, weightDecay: decay ? weightDecay : 0 });
    for (const [n, value] of next.entries()) graph.update(slots[n] as string, value);
  }
}
