// Lion over several tensors. Chen et al. 2023, arXiv:2302.06675, alg. 2. Formulas: native/ops/lion.h.
import type { Value } from '../graph/graph.js';
import { defineUpdate, type UpdatedTensor, type UpdateResult } from './tensor-list.js';

/** What varies between steps: fp32 [1] each. */
export interface LionInputs {
  lr: Value;
  /** Factor on the gradient: clipping, and 1 / loss scale. */
  gradScale: Value;
  /** What is left of the way from β to βEnd; null or left out: all of it. */
  betaShare?: Value | null;
}

/** What does not vary between steps. */
export interface LionOptions {
  beta1: number;
  beta2: number;
  /** Where `betaShare` leads to; defaults: beta1, beta2. */
  beta1End?: number;
  beta2End?: number;
}

/** A tensor to update. */
export interface LionTensor extends UpdatedTensor {
  /** Mean of gradients: shape of param, float. */
  m: Value;
  weightDecay: number;
  /** Its learning rate as a share of `lr`; default 1. */
  lrRatio?: number;
}

/** A tensor to update by the variant with a root. */
export interface LionRootTensor extends LionTensor {
  /** Mean of squared gradients: shape of param, dtype of m. */
  s: Value;
}

const numbers = ['lr', 'gradScale', 'betaShare'];
const factors = { weightDecay: 0, lrRatio: 1 };
const update = defineUpdate({ name: 'lion', numbers, state: ['m'], factors, flops: 10 });
const updateRoot = defineUpdate({ name: 'lion-root', numbers, state: ['m', 's'], factors, flops: 13 });

/**
 * One step of Lion: param − lr·(sign(β1·m + (1 − β1)·g) + weightDecay·param), then m = β2·m + (1 − β2)·g.
 *
 * @returns the next param, m and copy of each tensor
 * @throws HadalError HADAL_ERR_SHAPE, HADAL_ERR_DTYPE
 */
export function lion(
  tensors: readonly LionTensor[],
  { lr, gradScale, betaShare = null }: LionInputs,
  { beta1, beta2, beta1End = beta1, beta2End = beta2 }: LionOptions,
): (UpdateResult & Record<'m', Value>)[] {
  return update(tensors, [lr, gradScale, betaShare], { beta1, beta2, beta1End, beta2End, eps: 0 });
}

/**
 * One step of Lion's variant: m and s as Adam's moments, without its corrections; param − lr·(sign(m)/(√s + eps) +
 * weightDecay·param).
 *
 * @returns the next param, m, s and copy of each tensor
 * @throws HadalError HADAL_ERR_SHAPE, HADAL_ERR_DTYPE
 */
export function lionRoot(
  tensors: readonly LionRootTensor[],
  { lr, gradScale, betaShare = null }: LionInputs,
  { beta1, beta2, beta1End = beta1, beta2End = beta2, eps }: LionOptions & { eps: number },
): (UpdateResult & Record<'m' | 's', Value>)[] {
  return updateRoot(tensors, [lr, gradScale, betaShare], { beta1, beta2, beta1End, beta2End, eps });
}
