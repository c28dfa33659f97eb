// State that is the same in all processes, sent by rank 0: equal seeds and equal files are not trusted to make equal bits.
import { Graph, type Value } from '../graph/graph.js';
import { broadcastFrom } from '../ops/collectives.js';
import { compile } from '../runtime/compile.js';
import type { Program, ScheduleEntry } from '../runtime/device.js';
import type { Tensor } from '../runtime/tensor.js';
import { savedTensors } from './saved-tensors.js';
import type { Stepper } from './stepper.js';

/**
 * Gives all processes rank 0's parameters and state, but for what each has of its own: shares of tensors, and what compression
 * left of its gradients. The device must have its group.
 *
 * @throws HadalError HADAL_ERR_COMM; what processes other than rank 0 hold is a mixture then
 */
export async function shareState(stepper: Stepper): Promise<void> {
  const { device, config } = stepper;
  if (!config.dist) return;
  const { worldSize } = config.dist;
  const programs = new Map<string, Program>();
  const programFor = ({ shape, dtype }: Tensor): Program => {
    const key = `${dtype} ${shape.join(' ')}`;
    const known = programs.get(key) ?? device.load(compile(traceBroadcast({ shape, dtype }, worldSize), device.target));
    programs.set(key, known);
    return known;
  };
  const tensors = [...savedTensors(stepper).values()].flatMap(({ spread, held }) => (spread === 'same' ? [held] : []));
  await device.run(
    tensors.map((tensor): ScheduleEntry => ({ program: programFor(tensor), name: 'share-state', slots: { tensor } })),
  );
}

/** Whether processes hold shares of tensors: then the state of one that was lost is not with the others. */
export const hasShares = (stepper: Stepper): boolean =>
  [...savedTensors(stepper).values()].some(({ spread }) => spread === 'shares');

/** Overwrites a slot with rank 0's. */
function traceBroadcast({ shape, dtype }: Pick<Tensor, 'shape' | 'dtype'>, size: number): Graph {
  const graph = new Graph();
  const slot = graph.slot('tensor', shape, dtype);
  const [sent] = broadcastFrom([slot], { axis: 'dp', size }, 0);
  graph.update('tensor', sent as Value);
  return graph;
}
