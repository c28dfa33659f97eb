// Runs the summing of gradients over several ranks, devices of one process, update after update.
import { Graph } from '../../src/graph/graph.js';
import { compressedSums } from '../../src/optim/compression/compress.js';
import { ageResiduals, residualNorm } from '../../src/optim/compression/residuals.js';
import type { CompressionConfig } from '../../src/optim/dist-config.js';
import { compile } from '../../src/runtime/compile.js';
import type { Tensor } from '../../src/runtime/tensor.js';
import { joinedDevices } from '../support/joined-devices.js';

export const plainCompression: CompressionConfig = {
  kind: 'none',
  errorFeedback: true,
  density: 0.05,
  rank: 3,
  startStep: 0,
};

/** Of one update, by rank: slots and outputs by name. */
export type RankState = Record<string, Float32Array>;

export interface CompressedUpdates {
  shapes: Readonly<Record<string, readonly number[]>>;
  ranks: number;
  /** Gradients by rank and name. */
  updates: readonly (readonly Readonly<Record<string, Float32Array>>[])[];
  /** Updates that do not count. */
  skipped?: readonly number[];
  threads?: number;
}

/** The sums as outputs `sum/<name>`, the residuals, and the norm of these, after each update. */
export async function runCompression(
  compression: Partial<CompressionConfig>,
  { shapes, ranks, updates, skipped = [], threads = 1 }: CompressedUpdates,
): Promise<RankState[][]> {
  using joined = await joinedDevices(ranks, { threads });
  const steps = await joined.all(async (device, rank) => {
    const dist = {
      ...{ rank, worldSize: ranks, zero: 0, bucketBytes: 1 << 20, overlap: true },
      compression: { ...plainCompression, ...compression },
    };
    const graph = new Graph();
    const names = Object.keys(shapes);
    const gradients = names.map((name) => ({ name, value: graph.input(name, shapes[name]!, 'fp32') }));
    const sums = compressedSums(graph, gradients, dist);
    ageResiduals(graph, graph.input('isSound', [1], 'fp32'), null);
    const norm = residualNorm(graph);
    if (norm) graph.output('residualNorm', norm);
    for (const [i, name] of names.entries()) graph.output(`sum/${name}`, sums[i]!);
    const program = device.load(compile(graph, device.target));
    const slots: Record<string, Tensor> = {};
    for (const { name, shape, dtype } of program.slots) slots[name] = device.allocate(shape, dtype);
    const seen: RankState[] = [];
    for (const [i, update] of updates.entries()) {
      const inputs = { ...update[rank]!, isSound: Float32Array.of(skipped.includes(i) ? 0 : 1) };
      await device.run([{ program, slots, inputs }]);
      const now = Object.entries(slots).map(async ([name, tensor]) => [name, await tensor.toFloat32()] as const);
      seen.push(Object.fromEntries(await Promise.all(now)));
    }
    for (const tensor of Object.values(slots)) tensor.dispose();
    return seen;
  });
  return updates.map((_, i) => steps.map((states) => states[i]!));
}
