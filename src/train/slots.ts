// What the slots of training programs are for, by name.
import { type Model, parametersOf } from '../models/model.js';
import { gradientPrefix } from '../optim/reduce-gradients.js';
import { parameterIn } from '../optim/zero.js';
import { watchPrefix } from '../passes/watch.js';
import { workingCopyPrefix } from '../passes/working-copies.js';

/**
 * - `parameter`: a weight, or this process's shard of one; `copy`: of one, in 16 bits;
 * - `gradient`: its sum over the micro-batches of an update;
 * - `passing`: other sums and measures of one update;
 * - `state`: what updates leave for the next one: moments, counters, the loss scale.
 */
export type SlotKind = 'parameter' | 'copy' | 'gradient' | 'passing' | 'state';

/** Tells the slots of a model's programs apart, their outputs left aside. */
export function slotKinds(model: Model): (name: string) => SlotKind {
  const parameters = parametersOf(model);
  return (name) => {
    if (parameters.has(parameterIn(name))) return 'parameter';
    if (name.startsWith(workingCopyPrefix)) return 'copy';
    if (name.startsWith(gradientPrefix)) return 'gradient';
    return name === 'losses' || name === 'counts' || name.startsWith('load/') || name.startsWith(watchPrefix)
      ? 'passing'
      : 'state';
  };
}
