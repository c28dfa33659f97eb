// Stochastic gradient descent over several tensors, as torch.optim.SGD. Formula: native/ops/sgd.h.
import type { Value } from '../graph/graph.js';
import { defineUpdate, type UpdatedTensor, type UpdateResult } from './tensor-list.js';

/** What varies between steps: fp32 [1] each. */
export interface SgdInputs {
  lr: Value;
  /** Factor on the gradient: clipping, and 1 / loss scale. */
  gradScale: Value;
}

/** A tensor to update. */
export interface SgdTensor extends UpdatedTensor {
  /** Added to the gradient, times param. */
  weightDecay: number;
  /** Its learning rate as a share of `lr`; default 1. */
  lrRatio?: number;
}

/** A tensor to update with momentum. */
export interface SgdMomentumTensor extends SgdTensor {
  /** Shape of param, float. */
  m: Value;
}

const numbers = ['lr', 'gradScale'];
const factors = { weightDecay: 0, lrRatio: 1 };
const update = defineUpdate({ name: 'sgd', numbers, state: [], factors, flops: 5 });
const updateMomentum = defineUpdate({ name: 'sgd-momentum', numbers, state: ['m'], factors, flops: 9 });

/**
 * One step without momentum: param − lr·(g + weightDecay·param).
 *
 * @returns the next param and copy of each tensor
 * @throws HadalError HADAL_ERR_SHAPE, HADAL_ERR_DTYPE
 */
export function sgd(tensors: readonly SgdTensor[], { lr, gradScale }: SgdInputs): UpdateResult[] {
  return update(tensors, [lr, gradScale], { momentum: 0, nesterov: 0 });
}

/**
 * One step with momentum: m = momentum·m + g + weightDecay·param; param − lr·m, or with `nesterov`
 * param − lr·(g + weightDecay·param + momentum·m).
 *
 * @returns the next param, m and copy of each tensor
 * @throws HadalError HADAL_ERR_SHAPE, HADAL_ERR_DTYPE
 */
export function sgdMomentum(
  tensors: readonly SgdMomentumTensor[],
  { lr, gradScale }: SgdInputs,
  { momentum, nesterov }: { momentum: number; nesterov: boolean },
): (UpdateResult & Record<'m', Value>)[] {
  return updateMomentum(tensors, [lr, gradScale], { momentum, nesterov: Number(nesterov) });
}
