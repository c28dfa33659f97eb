import { loadAddon } from '../addon/addon.js';
import type { Graph, Queue } from '../graph/graph.js';
import type { KernelCall } from '../graph/op.js';
import { packParams } from './kernel-params.js';
import type { DeviceTarget } from './target.js';

/** Bytes of the largest workspace that a queue's instructions ask for. */
export function largestWorkspace(graph: Graph, queue: Queue, target: DeviceTarget): number {
  const nodes = graph.nodes.filter((node) => node.queue === queue && node.op.kernel);
  return nodes.reduce((most, { op, inputs, outputs, attrs }) => {
    const call = op.kernel?.(inputs, outputs, attrs) as KernelCall;
    return Math.max(most, workspaceOf(call.kernel, packParams(call.kernel, call.params), queue, target));
  }, 0);
}

/** Bytes of a call's workspace. Queues beside compute have one thread each. */
export function workspaceOf(
  kernel: string,
  params: Uint8Array,
  queue: Queue,
  { backend, threads }: DeviceTarget,
): number {
  return loadAddon().workspaceBytes(kernel, params, queue === 'compute' ? threads : 1, backend);
}
