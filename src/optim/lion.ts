// Lion over the parameters of a step, as its paper has it or divided by a root.
import type { Graph, Value } from '../graph/graph.js';
import { lion, lionRoot } from '../ops/lion.js';
import { type Betas, betaShare, endOf } from './beta-schedule.js';
import { stateSlot, type Updated, type UpdateRates, updatedTensor, updateSlots } from './update-state.js';

/** What does not vary between updates. */
export interface LionConfig extends Betas {
  eps: number;
  momentDtype: 'fp32' | 'bf16';
  lionVariant: 'sign' | 'root';
}

/**
 * Updates parameters by their gradients.
 *
 * @param updates - fp32 [1], updates made, this one included
 */
export function applyLion(
  graph: Graph,
  updated: readonly Updated[],
  rates: UpdateRates,
  config: LionConfig,
  updates: Value,
): void {
  const { beta1, beta2, eps, momentDtype, lionVariant } = config;
  const inputs = { ...rates, betaShare: betaShare(updates, config) };
  const options = { beta1, beta2, ...endOf(config) };
  const tensors = updated.map((one) => ({
    ...updatedTensor(graph, one),
    m: stateSlot(graph, 'lion.m', one, momentDtype),
  }));
  if (lionVariant === 'sign') {
    for (const [i, { m, ...made }] of lion(tensors, inputs, options).entries()) {
      updateSlots(graph, updated[i] as Updated, made, { 'lion.m': m });
    }
    return;
  }
  const rooted = tensors.map((tensor, i) => {
    return { ...tensor, s: stateSlot(graph, 'lion.s', updated[i] as Updated, momentDtype) };
  });
  for (const [i, { m, s, ...made }] of lionRoot(rooted, inputs, { ...options, eps }).entries()) {
    updateSlots(graph, updated[i] as Updated, made, { 'lion.m': m, 'lion.s': s });
  }
}
