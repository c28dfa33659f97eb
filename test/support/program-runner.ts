import type { Graph } from '../../src/graph/graph.js';
import { compile } from '../../src/runtime/compile.js';
import type { Tensor } from '../../src/runtime/tensor.js';
import { testDevice } from './op-case.js';

/**
 * Runs one program again and again on slots of its own, which begin with zeros unless `beginning` says otherwise.
 *
 * @returns a function that runs it once on fp32 inputs, and gives all slots and outputs of fp32
 */
export async function programRunner(graph: Graph, beginning: Readonly<Record<string, readonly number[]>> = {}) {
  const device = testDevice();
  const program = device.load(compile(graph, device.target));
  const tensors: Record<string, Tensor> = {};
  for (const { name, shape, dtype } of program.slots) tensors[name] = device.allocate(shape, dtype);
  for (const [name, values] of Object.entries(beginning)) await tensors[name]?.write(Float32Array.from(values));
  return async (inputs: Readonly<Record<string, readonly number[]>>): Promise<Record<string, number[]>> => {
    const arrays = Object.fromEntries(Object.entries(inputs).map(([name, data]) => [name, Float32Array.from(data)]));
    await device.run([{ program, slots: tensors, inputs: arrays }]);
    const floats = Object.entries(tensors).filter(([, { dtype }]) => dtype === 'fp32');
    const result: Record<string, number[]> = {};
    for (const [name, tensor] of floats) result[name] = [...(await tensor.toFloat32())];
    return result;
  };
}
