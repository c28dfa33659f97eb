// Times what processes say to each other through programs, as training has it: collectives, and sums of compressed gradients.
import { median } from '../core/median.js';
import { Graph, type Value } from '../graph/graph.js';
import { allGather, allReduce, allToAll, broadcastFrom, type Ranks, reduceScatter } from '../ops/collectives.js';
import { cast } from '../ops/elementwise.js';
import { randomFill } from '../ops/random.js';
import type { CompressionConfig } from '../optim/dist-config.js';
import { reduceGradients } from '../optim/reduce-gradients.js';
import { compile } from '../runtime/compile.js';
import type { Device, InstructionTime } from '../runtime/device.js';
import type { Tensor } from '../runtime/tensor.js';
import type { Collective, CollectiveTime, CompressionTime } from './comm-report.js';

export type CompressionKind = CompressionConfig['kind'];

/** Calls that are timed: the same on all ranks, and as bench/peers/pytorch_comm.py has it. */
export const callsOf = (bytes: number): number => Math.min(200, Math.max(5, Math.floor(2 ** 28 / bytes)));

/** Calls of a program: without JavaScript between them, where that would count. */
const callsPerRun = (bytes: number): number => Math.min(20, Math.max(1, Math.floor(2 ** 22 / bytes)));

/** A member of the ranks on axis `dp` of a device, and what it has sent so far. */
export interface Member extends Pick<Ranks, 'size'> {
  device: Device;
  sentBytes(): number;
}

const trace: Record<Collective, (x: Value, ranks: Ranks, whole: number) => Value[]> = {
  'all-reduce': (x, ranks) => allReduce([x], { ...ranks, op: 'sum', wire: 'fp32' }),
  'reduce-scatter': (x, ranks) => reduceScatter([x], { ...ranks, op: 'sum', wire: 'fp32' }),
  'all-gather': (share, ranks, whole) => allGather([{ share, shape: [whole] }], ranks),
  'all-to-all': (x, ranks) => allToAll([x], ranks),
  broadcast: (x, ranks) => broadcastFrom([x], ranks, 0),
};

/** Of a whole of so many bytes of fp32; every rank calls it alike. */
export async function timeCollective(member: Member, collective: Collective, bytes: number): Promise<CollectiveTime> {
  const { device, size } = member;
  const ranks: Ranks = { axis: 'dp', size, isUrgent: true };
  const share = Math.ceil(bytes / 4 / size);
  const numbers = collective === 'all-reduce' || collective === 'broadcast' ? bytes / 4 : share * size;
  const shapes: Record<string, readonly number[]> = { 'all-gather': [share], 'all-to-all': [size, share] };
  const graph = new Graph();
  const together = callsPerRun(bytes);
  for (let i = 0; i < together; i++) {
    const x = graph.slot(`x${i}`, shapes[collective] ?? [numbers], 'fp32');
    const [y] = trace[collective](x, ranks, numbers) as [Value];
    // In place, as gradients are summed.
    if (y.size === x.size) graph.update(`x${i}`, y);
    else graph.output(`y${i}`, y);
  }
  using run = prepared(device, graph);
  await run.once();
  const runs = Math.max(3, Math.ceil(callsOf(bytes) / together));
  const before = member.sentBytes();
  const times: number[] = [];
  for (let i = 0; i < runs; i++) {
    times.push(...(await run.once()).filter(isCollective).map(({ ms }) => ms));
  }
  return {
    ...{ collective, bytes: 4 * numbers, ms: median(times), calls: times.length },
    sentBytes: (member.sentBytes() - before) / (runs * together),
  };
}

const isCollective = ({ queue }: InstructionTime): boolean => queue === 'communication';

/** A program and the tensors that it works on, zeros at first. */
function prepared(device: Device, graph: Graph) {
  const program = device.load(compile(graph, device.target));
  const tensors: Record<string, Tensor> = {};
  for (const { name, shape, dtype } of [...program.slots, ...program.outputs]) {
    tensors[name] ??= device.allocate(shape, dtype);
  }
  return {
    tensors,
    once: async (inputs: Readonly<Record<string, NodeJS.TypedArray>> = {}): Promise<InstructionTime[]> =>
      (await device.run([{ program, slots: tensors, inputs }], { profile: true })).instructions,
    [Symbol.dispose]: () => {
      for (const tensor of Object.values(tensors)) tensor.dispose();
    },
  };
}

/** How a gradient of so many bytes is shaped: compressions are for matrices. */
function matrixOf(bytes: number): [rows: number, columns: number] {
  const numbers = bytes / 4;
  const columns = 2 ** Math.min(10, Math.max(0, Math.floor(Math.log2(numbers) / 2)));
  return [Math.floor(numbers / columns), columns];
}

const compressionRuns = 5;

/**
 * Sums of a gradient of normal numbers over the ranks, sent in each of the kinds.
 *
 * @param rank - this one's among the ranks
 */
export async function timeCompressions(
  member: Member,
  rank: number,
  kinds: readonly CompressionKind[],
  bytes: number,
): Promise<CompressionTime[]> {
  const { device, size } = member;
  const shape = matrixOf(bytes);
  let exact: Float32Array | null = null;
  const times: CompressionTime[] = [];
  for (const kind of ['none', ...kinds.filter((kind) => kind !== 'none')] as const) {
    const isRounding = kind === 'fp16' || kind === 'bf16';
    const graph = new Graph();
    const gradient = graph.slot('gradient', shape, 'fp32');
    const compression = { kind, errorFeedback: kind !== 'none' && !isRounding, density: 0.01, rank: 4, startStep: 0 };
    const dist = { rank, worldSize: size, zero: 0, bucketBytes: 2 ** 22, overlap: true, compression };
    const [sum] = reduceGradients(graph, [{ name: 'gradient', value: gradient }], dist) as [Value];
    graph.output('sum', sum);
    using run = prepared(device, graph);
    await fillNormal(device, run.tensors.gradient as Tensor, rank);
    await run.once();
    const before = member.sentBytes();
    const [all, computing]: [number[], number[]] = [[], []];
    for (let i = 0; i < compressionRuns; i++) {
      const instructions = await run.once();
      const ms = (of: readonly InstructionTime[]) => of.reduce((sum, each) => sum + each.ms, 0);
      all.push(ms(instructions));
      computing.push(ms(instructions.filter((each) => !isCollective(each))));
    }
    const found = await (run.tensors.sum as Tensor).toFloat32();
    exact ??= found;
    times.push({
      ...{ kind, bytes: gradient.bytes, ms: median(all) },
      // Collectives round by themselves: what that takes is measured apart.
      computeMs: isRounding ? await timeRounding(device, kind, shape) : median(computing),
      sentBytes: (member.sentBytes() - before) / compressionRuns,
      error: relativeError(found, exact),
    });
  }
  return times.filter(({ kind }) => kind === 'none' || kinds.some((each) => each === kind));
}

async function timeRounding(device: Device, dtype: 'fp16' | 'bf16', shape: readonly number[]): Promise<number> {
  const graph = new Graph();
  graph.output('y', cast(cast(graph.slot('x', shape, 'fp32'), dtype), 'fp32'));
  using run = prepared(device, graph);
  const times: number[] = [];
  for (let i = 0; i <= compressionRuns; i++) times.push((await run.once()).reduce((sum, { ms }) => sum + ms, 0));
  return median(times.slice(1));
}

async function fillNormal(device: Device, tensor: Tensor, seed: number): Promise<void> {
  const graph = new Graph();
  const key = graph.input('key', [2], 'int32');
  graph.output('y', randomFill(key, tensor.shape, 'fp32', { stream: 0, distribution: 'normal', mean: 0, std: 1e-3 }));
  const program = device.load(compile(graph, device.target));
  await device.run([{ program, slots: { y: tensor }, inputs: { key: Int32Array.of(seed, 0) } }]);
}

/** ‖a − b‖ / ‖b‖. */
function relativeError(a: Float32Array, b: Float32Array): number {
  let [difference, norm] = [0, 0];
  for (let i = 0; i < b.length; i++) {
    const y = b[i] as number;
    difference += ((a[i] as number) - y) ** 2;
    norm += y * y;
  }
  return Math.sqrt(difference / norm);
}
