import { HadalError } from '../core/errors.js';
import { sameShape } from '../core/shape.js';
import type { Graph } from './graph.js';
import { printNode } from './print.js';

/**
 * Checks what every pass must keep: inputs come before their users, types are what the ops infer, updates fit their
 * slots, values of a predicated range leave it only as updates of slots, an output with a slot's name is that slot.
 *
 * @throws HadalError HADAL_ERR_INTERNAL naming the node
 */
export function verify(graph: Graph): void {
  for (const [id, node] of graph.nodes.entries()) {
    const refuse = (why: string) => {
      throw new HadalError('HADAL_ERR_INTERNAL', `[verify] ${why}: ${printNode(node)}`);
    };
    if (node.id !== id || node.graph !== graph) refuse('a node stands in another place than it says');
    for (const input of [...node.inputs, node.predicate]) {
      if (input && (input.node.graph !== graph || input.node.id >= id || graph.nodes[input.node.id] !== input.node)) {
        refuse('an input does not come before its user');
      }
      if (input?.node.predicate && input.node.predicate !== node.predicate) {
        refuse('a value of a predicated range is used outside of it');
      }
    }
    const types = node.op.infer(node.inputs, node.attrs);
    const fits = types.every((type, i) => {
      const output = node.outputs[i];
      return output && sameShape(output.shape, type.shape) && output.dtype === type.dtype;
    });
    if (!fits || types.length !== node.outputs.length) refuse('outputs are not what the op infers');
  }
  for (const [name, value] of graph.updates) {
    const slot = graph.slots.get(name);
    if (!slot || !sameShape(slot.shape, value.shape) || slot.dtype !== value.dtype || value.node.graph !== graph) {
      throw new HadalError('HADAL_ERR_INTERNAL', `[verify] the update of slot '${name}' does not fit it`);
    }
  }
  for (const [name, value] of graph.outputs) {
    const refuse = (why: string) => {
      throw new HadalError('HADAL_ERR_INTERNAL', `[verify] output '${name}' ${why}`);
    };
    if (value.node.graph !== graph) refuse('is of another graph');
    if (value.node.predicate) refuse('may be skipped');
    if (graph.slots.has(name) && (graph.slots.get(name) !== value || graph.updates.has(name))) {
      refuse('bears the name of a slot that it is not');
    }
  }
}
