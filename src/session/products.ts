// Products of matrices of JavaScript's memory, on a device.
import type { Shape } from '../core/shape.js';
import { Graph } from '../graph/graph.js';
import { type MatmulOptions, matmul } from '../ops/matmul.js';
import { compile } from '../runtime/compile.js';
import type { Device } from '../runtime/device.js';

/** fp32 numbers, row-major. */
export interface Matrix {
  data: Float32Array;
  /** [rows, columns]. */
  shape: Shape;
}

/** a · b, computed once. @throws HadalError HADAL_ERR_SHAPE, HADAL_ERR_MEMORY */
export async function productOf(device: Device, a: Matrix, b: Matrix, options: MatmulOptions = {}): Promise<Matrix> {
  const graph = new Graph();
  const traced = matmul(graph.input('a', a.shape, 'fp32'), graph.input('b', b.shape, 'fp32'), options);
  graph.output('product', traced);
  const program = device.load(compile(graph, device.target));
  using product = device.allocate(traced.shape, 'fp32');
  await device.run([{ program, slots: { product }, inputs: { a: a.data, b: b.data } }]);
  return { data: await product.toFloat32(), shape: traced.shape };
}
