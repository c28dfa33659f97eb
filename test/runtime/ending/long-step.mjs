// A device in the middle of a long step: products of some milliseconds each.
import { Graph } from '../../../dist/graph/graph.js';
import { matmul } from '../../../dist/ops/matmul.js';
import { compile } from '../../../dist/runtime/compile.js';
import { openDevice } from '../../../dist/runtime/device.js';

export async function beginLongStep(products = 400) {
  const device = openDevice('cpu', { threads: 2 });
  const graph = new Graph();
  let x = graph.slot('x', [512, 512], 'fp32');
  for (let i = 0; i < products; i++) x = matmul(x, x);
  graph.update('x', x);
  const program = device.load(compile(graph, 2));
  const x0 = device.allocate([512, 512], 'fp32');
  const step = device.run([{ program, slots: { x: x0 } }]);
  // The step is under way, on another thread.
  await new Promise((resolve) => setTimeout(resolve, 20));
  return { device, step };
}
