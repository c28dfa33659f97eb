import type { Graph, Value } from '../graph/graph.js';
import {
  add,
  cast,
  divide,
  less,
  lessEqual,
  maximum,
  minimum,
  multiply,
  negate,
  sqrt,
  where,
} from '../ops/elementwise.js';
import { max, sum } from '../ops/reduce.js';
import { concat, reshape, slice } from '../ops/shape.js';
import { fill } from '../ops/sources.js';
import { squaredNorm } from '../ops/squared-norm.js';

/** How gradients are kept within bounds. */
export interface ClipConfig {
  /** Greatest global norm; null: none. */
  norm: number | null;
  /** Greatest absolute value of an element; null: none. */
  value: number | null;
  /** A bound of the norm that follows the norms of the last updates; null: none. */
  adaptive: AdaptiveClip | null;
}

/** The bound is `factor` times the `quantile` of the last `window` norms. */
export interface AdaptiveClip {
  quantile: number;
  window: number;
  factor: number;
}

/** Gradients that are clipped, and what they were scaled by to be. */
export interface Clipped {
  grads: readonly Value[];
  /** Global norm before, fp32 [1]; not finite where a gradient is not. */
  norm: Value;
  /** Global norm after. */
  clippedNorm: Value;
  /** What is left to multiply the gradients with, fp32 [1], the unscaling of the loss included. */
  scale: Value;
}

/** Norms of the last updates, the newest last, fp32 [window]; 0 where there was none yet. */
const normsSlot = 'state/gradientNorms';

/** √(Σ over all gradients of Σ g²), fp32 [1]. Pascanu et al. 2013, arXiv:1211.5063. */
export function globalNorm(grads: readonly Value[]): Value {
  return sqrt(squaredNorm(grads));
}

/** Factor that brings a gradient of norm `norm` down to at most `clipNorm`: min(1, clipNorm / (norm + 1e-6)), as PyTorch. */
export function clipScale(norm: Value, clipNorm: Value | number): Value {
  return minimum(divide(clipNorm, add(norm, 1e-6)), 1);
}

/**
 * Clips gradients: each element first, then the norm of all.
 *
 * @param lossScale - fp32 [1], what the loss was multiplied with; null: nothing
 * @param normOf - global norm of gradients
 */
export function clip(
  graph: Graph,
  grads: readonly Value[],
  lossScale: Value | null,
  config: ClipConfig,
  normOf: (grads: readonly Value[]) => Value = globalNorm,
): Clipped {
  const unscaled = (norm: Value) => (lossScale ? divide(norm, lossScale) : norm);
  const norm = unscaled(normOf(grads));
  const bounded = config.value === null ? grads : grads.map((grad) => clamp(grad, config.value as number, lossScale));
  const left = config.value === null ? norm : unscaled(normOf(bounded));
  const bound = normBound(graph, config);
  const clipping = bound === null ? null : clipScale(left, bound);
  const clippedNorm = clipping ? multiply(left, clipping) : left;
  const scale = unscaled(clipping ?? fill(graph, [1], 1));
  return { grads: bounded, norm, clippedNorm, scale };
}

/** Lets the adaptive bound know the norm of an update. To be traced where updates that are skipped do not count. */
export function rememberNorm(graph: Graph, norm: Value, { adaptive }: ClipConfig): void {
  if (!adaptive) return;
  const norms = graph.slot(normsSlot, [adaptive.window], 'fp32');
  graph.update(normsSlot, concat([slice(norms, 0, 1, adaptive.window), norm], 0));
}

function clamp(grad: Value, limit: number, lossScale: Value | null): Value {
  if (!lossScale) return maximum(minimum(grad, limit), -limit);
  const scaled = cast(multiply(lossScale, limit), grad.dtype);
  return maximum(minimum(grad, scaled), negate(scaled));
}

/** The lesser of the fixed and the adaptive bound. */
function normBound(graph: Graph, { norm, adaptive }: ClipConfig): Value | number | null {
  if (!adaptive) return norm;
  const { quantile, window, factor } = adaptive;
  const limit = multiply(quantileOf(graph.slot(normsSlot, [window], 'fp32'), quantile), factor);
  return norm === null ? limit : minimum(limit, norm);
}

/** The least of the numbers above 0 that at least a share `q` of them does not exceed, fp32 [1]; infinite when there are none. */
function quantileOf(x: Value, q: number): Value {
  const isKnown = less(0, x);
  const notAbove = multiply(lessEqual(reshape(x, [1, -1]), reshape(x, [-1, 1])), reshape(isKnown, [1, -1]));
  const isEnough = lessEqual(multiply(sum(isKnown, [0], true), q), sum(notAbove, [1]));
  const candidates = where(multiply(isKnown, isEnough), x, Number.POSITIVE_INFINITY);
  return negate(max(negate(candidates), [0], true));
}
