// Dynamic loss scaling. Micikevicius et al. 2017, arXiv:1710.03740, §3.2, with the rule of NVIDIA's Apex and PyTorch's GradScaler.
import type { Graph, Value } from '../graph/graph.js';
import { add, lessEqual, maximum, multiply, where } from '../ops/elementwise.js';

/** How the factor of the loss follows overflows of the gradients. */
export interface LossScaleConfig {
  /** The factor of the first update. */
  initial: number;
  /** What it is multiplied with after `growthInterval` updates in a row without overflow. */
  growth: number;
  /** What it is multiplied with after an overflow. */
  backoff: number;
  growthInterval: number;
}

/** Slot of the factor, fp32 [1]. Begins with `initial`. */
export const lossScaleSlot = 'state/lossScale';

/** Slot that counts updates without overflow since the factor last changed, fp32 [1]. */
const goodUpdatesSlot = 'state/goodUpdates';

/** Below this a gradient that overflows is no matter of scale any more. */
export const leastLossScale = 2 ** -14;

/** The factor that the loss is multiplied with. */
export function readLossScale(graph: Graph): Value {
  return graph.slot(lossScaleSlot, [1], 'fp32');
}

/** Sets the factor of the next update. @param allFinite - fp32 [1], 1 where all gradients were, else 0 */
export function updateLossScale(graph: Graph, allFinite: Value, config: LossScaleConfig): void {
  const { growth, backoff, growthInterval } = config;
  const scale = readLossScale(graph);
  const good = multiply(add(graph.slot(goodUpdatesSlot, [1], 'fp32'), 1), allFinite);
  const grows = lessEqual(growthInterval, good);
  const next = where(allFinite, where(grows, multiply(scale, growth), scale), multiply(scale, backoff));
  graph.update(lossScaleSlot, maximum(next, leastLossScale));
  graph.update(goodUpdatesSlot, where(grows, 0, good));
}
