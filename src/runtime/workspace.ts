import { loadAddon } from '../addon/addon.js';
import type { Graph, Queue } from '../graph/graph.js';
import type { KernelCall } from '../graph/op.js';
import { packParams } from './kernel-params.js';
import type { DeviceTarget } from './target.js';

/** Bytes of the largest workspace that a queue's instructions ask for. */
export function largestWorkspace(graph: Graph, queue: Queue, { backend }: DeviceTarget): number {
  const nodes = graph.nodes.filter((node) => node.queue === queue && node.op.kernel);
  return nodes.reduce((most, { op, inputs, outputs, attrs }) => {
    const call = op.kernel?.(inputs, outputs, attrs) as KernelCall;
    return Math.max(most, loadAddon().workspaceBytes(call.kernel, packParams(call.kernel, call.params), 1, backend));
  }, 0);
}
