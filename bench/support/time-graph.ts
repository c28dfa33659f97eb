// Times a graph's instructions, over and over, on inputs that are already in place.
import { tmpdir } from 'node:os';
import { sizeOf } from '../../src/core/shape.js';
import { Graph } from '../../src/graph/graph.js';
import { randomFill } from '../../src/ops/random.js';
import { BackingFile } from '../../src/runtime/backing-file.js';
import { compile } from '../../src/runtime/compile.js';
import type { Device, InstructionTime } from '../../src/runtime/device.js';
import type { Tensor } from '../../src/runtime/tensor.js';
import { type BenchInput, offloadedIn } from './bench-case.js';

/** How long to measure. */
export interface Effort {
  /** What one graph is given, beyond the fewest runs. */
  seconds: number;
  /** Called when all inputs are in place and nothing has run yet. */
  onReady?: () => void;
}

const fewestRuns = 5;
const mostRuns = 200;

/**
 * @param inputs - how the graph's slots are filled; those that are not named get normal numbers
 * @returns the times of all instructions, for each run but the first
 */
export async function timeGraph(
  device: Device,
  graph: Graph,
  inputs: Readonly<Record<string, BenchInput>>,
  { seconds, onReady }: Effort,
): Promise<InstructionTime[][]> {
  const program = device.load(compile(graph, device.target, { isOffloaded: offloadedIn(inputs) }));
  using file = program.slots.some(({ offloaded }) => offloaded) ? new BackingFile(tmpdir()) : null;
  const slots: Record<string, Tensor> = {};
  try {
    for (const { name, shape, dtype, offloaded } of program.slots) {
      slots[name] = device.allocate(shape, dtype, { file: offloaded ? file : null });
    }
    await fillSlots(device, [...graph.slots.keys()], slots, inputs);
    onReady?.();
    const run = async () => (await device.run([{ program, slots }], { profile: true })).instructions;
    await run();
    const end = performance.now() + 1000 * seconds;
    const runs: InstructionTime[][] = [];
    while (runs.length < fewestRuns || (performance.now() < end && runs.length < mostRuns)) runs.push(await run());
    return runs;
  } finally {
    for (const tensor of Object.values(slots)) tensor.dispose();
  }
}

async function fillSlots(
  device: Device,
  names: readonly string[],
  slots: Readonly<Record<string, Tensor>>,
  inputs: Readonly<Record<string, BenchInput>>,
): Promise<void> {
  const graph = new Graph();
  const key = graph.input('key', [2], 'int32');
  for (const [stream, name] of names.entries()) {
    const tensor = slots[name];
    if (!tensor) continue; // passes may find that nothing needs it
    const { shape, dtype } = tensor;
    const { mean = 0, std = 1, values = () => 0 } = inputs[name] ?? {};
    if (dtype === 'int32') {
      await tensor.write(Int32Array.from({ length: sizeOf(shape) }, (_, i) => values(i)));
    } else {
      graph.slot(name, shape, dtype);
      graph.update(name, randomFill(key, shape, dtype, { stream, distribution: 'normal', mean, std }));
    }
  }
  const program = device.load(compile(graph, device.target));
  await device.run([{ program, slots, inputs: { key: Int32Array.of(1, 2) } }]);
}
