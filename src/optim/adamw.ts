// AdamW over the parameters of a step: slots for the moments and, where β changes, for the products that correct their bias.
import type { Graph, Value } from '../graph/graph.js';
import { adamw } from '../ops/adamw.js';
import { add, exp, multiply, subtract } from '../ops/elementwise.js';
import { type Betas, betaShare, endOf } from './beta-schedule.js';
import { stateSlot, type Updated, type UpdateRates, updatedTensor, updateSlots } from './update-state.js';

/** What does not vary between updates. */
export interface AdamwConfig extends Betas {
  eps: number;
  momentDtype: 'fp32' | 'bf16';
}

/**
 * Updates parameters by their gradients.
 *
 * @param updates - fp32 [1], updates made, this one included
 */
export function applyAdamw(
  graph: Graph,
  updated: readonly Updated[],
  { lr, gradScale }: UpdateRates,
  config: AdamwConfig,
  updates: Value,
): void {
  const { beta1, beta2, eps, momentDtype } = config;
  const share = betaShare(updates, config);
  const { beta1End, beta2End } = endOf(config);
  const inputs = {
    ...{ lr, gradScale, betaShare: share },
    correction1: correction(graph, 'state/correction1', updates, { begin: beta1, end: beta1End, share }),
    correction2: correction(graph, 'state/correction2', updates, { begin: beta2, end: beta2End, share }),
  };
  const tensors = updated.map((one) => ({
    ...updatedTensor(graph, one),
    m: stateSlot(graph, 'adam.m', one, momentDtype),
    v: stateSlot(graph, 'adam.v', one, momentDtype),
  }));
  for (const [i, { m, v, ...made }] of adamw(tensors, inputs, { beta1, beta2, beta1End, beta2End, eps }).entries()) {
    updateSlots(graph, updated[i] as Updated, made, { 'adam.m': m, 'adam.v': v });
  }
}

/** 1 − Π β: what the moments, which begin with zeros, are too small by. Where β changes, the last one is kept in a slot. */
function correction(
  graph: Graph,
  slot: string,
  updates: Value,
  { begin, end, share }: { begin: number; end: number; share: Value | null },
): Value {
  if (!share) return subtract(1, exp(multiply(updates, Math.log(begin))));
  const last = graph.slot(slot, [1], 'fp32');
  const next = add(last, multiply(subtract(1, last), add(1 - begin, multiply(subtract(1, share), begin - end))));
  graph.update(slot, next);
  return next;
}
