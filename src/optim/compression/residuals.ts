// What compression left of the gradients of one update is added to those of the next: error feedback. Karimireddy et al. 2019,
// arXiv:1901.09847. A residual is of this rank's gradient; what all ranks keep together is what the sum lacks, however many they are.
import type { Shape } from '../../core/shape.js';
import type { Graph, Value } from '../../graph/graph.js';
import { add, divide, multiply, sqrt, where } from '../../ops/elementwise.js';
import type { Residual } from '../../ops/quantize-blocks.js';
import { squaredNorm } from '../../ops/squared-norm.js';
import { residualPrefix } from '../dist-config.js';
import { lossScaleSlot } from '../loss-scale.js';

/**
 * Slot of what residuals are multiplied with, fp32 [1]: 0 at the beginning and after an update that was skipped, whose gradients
 * must not come back; else what the loss scale grew by.
 */
export const residualScaleSlot = 'state/residualScale';

/** A gradient by the name of its parameter, fp32. */
export interface NamedValue {
  name: string;
  value: Value;
}

/** What residuals are multiplied with. */
export const residualScale = (graph: Graph): Value => graph.slot(residualScaleSlot, [1], 'fp32');

/** What is left of a parameter's earlier gradients. */
export function residualOf(graph: Graph, name: string, shape: Shape): Residual {
  return { value: graph.slot(residualPrefix + name, shape, 'fp32'), scale: residualScale(graph) };
}

/** Lets the next update know what is left of a gradient. */
export const keepResidual = (graph: Graph, name: string, value: Value): void =>
  graph.update(residualPrefix + name, value);

/** A gradient and what is left of earlier ones. */
export function withResidual(grad: Value, { value, scale }: Residual): Value {
  return add(grad, where(scale, multiply(value, scale), 0));
}

/**
 * Tells the next update what residuals are worth. To be traced once, behind the update of the loss scale.
 *
 * @param isSound - fp32 [1], 1 where this update counts, else 0
 * @param lossScale - fp32 [1], that of this update; null: none
 */
export function ageResiduals(graph: Graph, isSound: Value, lossScale: Value | null): void {
  if (!graph.slots.has(residualScaleSlot)) return;
  const next = graph.updates.get(lossScaleSlot);
  graph.update(
    residualScaleSlot,
    next && lossScale ? multiply(isSound, divide(next, lossScale)) : multiply(isSound, 1),
  );
}

/**
 * √(Σ over all residuals of this rank of Σ e²) behind this update, fp32 [1], in units of the gradients; null where there are
 * none. Times the number of ranks and over the norm of the summed gradients it is the relative error of compression, if ranks
 * are alike.
 */
export function residualNorm({ updates }: Graph): Value | null {
  const residuals = [...updates].filter(([name]) => name.startsWith(residualPrefix)).map(([, value]) => value);
  return residuals.length > 0 ? sqrt(squaredNorm(residuals)) : null;
}
