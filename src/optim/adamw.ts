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

/**
 * Updates every parameter by its gradient.
 *
 * @param lr - fp32 [1]
 * @param gradScale - fp32 [1], clipping
 * @param workingCopies - names the slot (bf16, shape of the parameter) that holds the parameter rounded, where there is one
 */
export function applyAdamw(
  graph: Graph,
  parameters: readonly OptimizedParameter[],
  grads: readonly Value[],
  { lr, gradScale }: { lr: Value; gradScale: Value },
  { weightDecay, ...config }: AdamwConfig,
  workingCopies: (parameter: OptimizedParameter) => string | null = () => null,
): void {
  const updates = add(graph.slot(updatesSlot, [1], 'fp32'), 1);
  graph.update(updatesSlot, updates);
  // 1 − β^n
  const correction = (beta: number) => subtract(1, exp(multiply(updates, Math.log(beta))));
  const inputs = { lr, gradScale, correction1: correction(config.beta1), correction2: correction(config.beta2) };
  const tensors = parameters.map((parameter, i) => {
    const { name, shape, dtype, decay } = parameter;
    const [mSlot, vSlot] = momentSlots(name);
    return {
      param: graph.slot(name, shape, dtype),
      grad: grads[i] as Value,
      m: graph.slot(mSlot, shape, 'fp32'),
      v: graph.slot(vSlot, shape, 'fp32'),
      weightDecay: decay ? weightDecay : 0,
      copies: workingCopies(parameter) !== null,
    };
  });
  for (const [i, { param, m, v, copy }] of adamw(tensors, inputs, config).entries()) {
    const parameter = parameters[i] as OptimizedParameter;
    const [mSlot, vSlot] = momentSlots(parameter.name);
    graph.update(parameter.name, param);
    graph.update(mSlot, m);
    graph.update(vSlot, v);
    const slot = workingCopies(parameter);
    if (slot === null || !copy) continue;
    graph.slot(slot, parameter.shape, 'bf16');
    graph.update(slot, copy);
  }
}
