import type { Value } from '../graph/graph.js';
import { add, divide, minimum, sqrt } from '../ops/elementwise.js';
import { squaredNorm } from '../ops/squared-norm.js';

/** √(Σ over all gradients of Σ g²), fp32 [1]. Pascanu et al. 2013, arXiv:1211.5063. */
export function globalNorm(grads: readonly Value[]): Value {
  return sqrt(squaredNorm(grads));
}

/** Factor that brings a gradient of norm `norm` down to at most `clipNorm`: min(1, clipNorm / (norm + 1e-6)), as PyTorch. */
export function clipScale(norm: Value, clipNorm: number): Value {
  return minimum(divide(clipNorm, add(norm, 1e-6)), 1);
}
