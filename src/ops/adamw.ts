// AdamW over several tensors. Kingma & Ba 2015, arXiv:1412.6980; decoupled decay of Loshchilov & Hutter 2019,
// arXiv:1711.05101, alg. 2. Formula: native/ops/adamw.h.
import type { Value } from '../graph/graph.js';
import { defineUpdate, type UpdatedTensor, type UpdateResult } from './tensor-list.js';

/** What varies between steps: fp32 [1] each. */
export interface AdamwInputs {
  lr: Value;
  /** Factor on the gradient: clipping, and 1 / loss scale. */
  gradScale: Value;
  /** 1 − Π over all steps, this one included, of their β1. */
  correction1: Value;
  /** The same of β2. */
  correction2: Value;
  /** What is left of the way from β to βEnd; null or left out: all of it. */
  betaShare?: Value | null;
}

/** What does not vary between steps. */
export interface AdamwOptions {
  beta1: number;
  beta2: number;
  /** Where `betaShare` leads to; defaults: beta1, beta2. */
  beta1End?: number;
  beta2End?: number;
  eps: number;
}

/** A tensor to update. */
export interface AdamwTensor extends UpdatedTensor {
  /** First moment: shape of param, float. */
  m: Value;
  /** Second moment: shape of param, dtype of m. */
  v: Value;
  weightDecay: number;
  /** Factor of a decay by param³; default 0. */
  l4Decay?: number;
  /** Its learning rate as a share of `lr`; default 1. */
  lrRatio?: number;
}

/** A tensor after the update. */
export interface AdamwResult extends UpdateResult {
  m: Value;
  v: Value;
}

const update = defineUpdate({
  name: 'adamw',
  numbers: ['lr', 'gradScale', 'correction1', 'correction2', 'betaShare'],
  state: ['m', 'v'],
  factors: { weightDecay: 0, l4Decay: 0, lrRatio: 1 },
  flops: 15,
});

/**
 * One AdamW step of any number of tensors, equal to `torch.optim.AdamW`:
 * param − lr·((m/correction1) / (√(v/correction2) + eps) + weightDecay·param + l4Decay·param³).
 *
 * @returns the next param, m, v and copy of each tensor
 * @throws HadalError HADAL_ERR_SHAPE, HADAL_ERR_DTYPE
 */
export function adamw(
  tensors: readonly AdamwTensor[],
  { lr, gradScale, correction1, correction2, betaShare = null }: AdamwInputs,
  { beta1, beta2, beta1End = beta1, beta2End = beta2, eps }: AdamwOptions,
): AdamwResult[] {
  const options = { beta1, beta2, beta1End, beta2End, eps };
  return update(tensors, [lr, gradScale, correction1, correction2, betaShare], options);
}
