// SGD over the parameters of a step; without momentum it remembers nothing.
import type { Graph } from '../graph/graph.js';
import { sgd, sgdMomentum } from '../ops/sgd.js';
import { stateSlot, type Updated, type UpdateRates, updatedTensor, updateSlots } from './update-state.js';

/** Updates parameters by their gradients. */
export function applySgd(
  graph: Graph,
  updated: readonly Updated[],
  rates: UpdateRates,
  { momentum, nesterov }: { momentum: number; nesterov: boolean },
): void {
  const tensors = updated.map((one) => updatedTensor(graph, one));
  if (momentum === 0) {
    for (const [i, made] of sgd(tensors, rates).entries()) updateSlots(graph, updated[i] as Updated, made, {});
    return;
  }
  const moving = tensors.map((tensor, i) => {
    return { ...tensor, m: stateSlot(graph, 'sgd.momentum', updated[i] as Updated, 'fp32') };
  });
  for (const [i, { m, ...made }] of sgdMomentum(moving, rates, { momentum, nesterov }).entries()) {
    updateSlots(graph, updated[i] as Updated, made, { 'sgd.momentum': m });
  }
}
