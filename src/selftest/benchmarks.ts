// Kernels of a training step at sizes of real models, timed one by one on a device.

import { gradients } from '../autodiff/gradients.js';
import type { DType } from '../core/dtype.js';
import { median } from '../core/median.js';
import { Graph, type Value } from '../graph/graph.js';
import { adamw } from '../ops/adamw.js';
import { attention } from '../ops/attention.js';
import { add, cast } from '../ops/elementwise.js';
import { embedding } from '../ops/embedding.js';
import { groupedMatmul } from '../ops/grouped-matmul.js';
import { layerNorm } from '../ops/layer-norm.js';
import { linearCrossEntropy } from '../ops/linear-cross-entropy.js';
import { matmul } from '../ops/matmul.js';
import { randomFill } from '../ops/random.js';
import { sum } from '../ops/reduce.js';
import { rmsNorm } from '../ops/rms-norm.js';
import { swiglu } from '../ops/swiglu.js';
import { compile } from '../runtime/compile.js';
import type { Device, InstructionTime } from '../runtime/device.js';

/** What one kernel took: the median of several runs. */
export interface Benchmark {
  name: string;
  kernel: string;
  ms: number;
  /** Of the formula, not of what the kernel does twice. */
  tflops: number;
  /** Read and written, each number once. */
  gbPerSecond: number;
}

/** A source of random numbers of the given type. */
type Random = (dtype: DType, ...shape: number[]) => Value;

interface Row {
  name: string;
  build(random: Random, graph: Graph): Value[];
}

/** @param s - 1: sizes of a GPU; larger: each large dimension so many times smaller, for the simulated one */
const rowsOf = (s: number): Row[] => {
  const n = 8192 / s;
  const [tokens, width] = [16384 / s, 4096 / s];
  const heads = (d: number, e: number): Row => ({
    name: `attention 4×${tokens / 4}, ${64 / Math.min(s, 32)} heads of ${d}/${e}, causal, and backward`,
    build: (random) => {
      const count = 64 / Math.min(s, 32);
      const [q, k, v] = [
        random('bf16', 4, tokens / 4, count, d),
        random('bf16', 4, tokens / 4, count, d),
        random('bf16', 4, tokens / 4, count, e),
      ];
      return withGradients(attention(q, k, v, { causal: true, scale: 1 / Math.sqrt(d) }), [q, k, v]);
    },
  });
  return [
    { name: `copy of ${(n * n) / 2 ** 20} M numbers, fp32`, build: (random) => [add(random('fp32', n, n), 1)] },
    ...(['bf16', 'fp16', 'fp32'] as const).map((dtype) => ({
      name: `product ${n}³ ${dtype}`,
      build: (random: Random) => [matmul(random(dtype, n, n), random(dtype, n, n))],
    })),
    {
      name: `product ${tokens}×${width}×${width} bf16`,
      build: (random) => [matmul(random('bf16', tokens, width), random('bf16', width, width))],
    },
    heads(64, 64),
    heads(128, 128),
    heads(192, 128),
    {
      name: `RMSNorm ${tokens}×${width} bf16, and backward`,
      build: (random) => {
        const [x, weight] = [random('bf16', tokens, width), random('fp32', width)];
        return withGradients(rmsNorm(x, weight, 1e-6), [x, weight]);
      },
    },
    {
      name: `LayerNorm ${tokens}×${width} bf16, and backward`,
      build: (random) => {
        const [x, weight, bias] = [random('bf16', tokens, width), random('fp32', width), random('fp32', width)];
        return withGradients(layerNorm(x, weight, bias, 1e-5), [x, weight, bias]);
      },
    },
    {
      name: `SwiGLU ${tokens}×${2 * width} bf16, and backward`,
      build: (random) => {
        const x = random('bf16', tokens, 2 * width);
        return withGradients(swiglu(x), [x]);
      },
    },
    {
      name: `products of 64 experts, ${tokens}×${width / 2}×${width / 2} bf16`,
      build: (random, graph) => {
        const offsets = graph.constant(
          Int32Array.from({ length: 65 }, (_, e) => Math.floor((e * tokens) / 64)),
          [65],
        );
        return [groupedMatmul(random('bf16', tokens, width / 2), random('bf16', 64, width / 2, width / 2), offsets)];
      },
    },
    {
      name: `embedding of ${tokens} ids, and backward`,
      build: (random, graph) => {
        const table = random('fp32', 50304 / s, width);
        const ids = graph.constant(
          Int32Array.from({ length: tokens }, (_, i) => (i * 7919) % (50304 / s)),
          [tokens],
        );
        return withGradients(embedding(table, ids), [table]);
      },
    },
    {
      name: `linear cross-entropy ${tokens / 2}×${width / 2}×${50304 / s} bf16`,
      build: (random, graph) => {
        const [hidden, weight] = [random('bf16', tokens / 2, width / 2), random('bf16', 50304 / s, width / 2)];
        const labels = graph.constant(
          Int32Array.from({ length: tokens / 2 }, (_, i) => (i * 7919) % (50304 / s)),
          [tokens / 2],
        );
        const scale = graph.constant(Float32Array.of(1 / tokens), [1]);
        const { loss } = linearCrossEntropy(hidden, weight, labels, scale);
        return [loss, ...gradients(loss, [hidden, weight])];
      },
    },
    {
      name: `AdamW of ${(n * n) / 2 ** 20} M parameters, fp32 with a bf16 copy`,
      build: (random, graph) => {
        const one = (value: number) => graph.constant(Float32Array.of(value), [1]);
        const [param, grad, m, v] = [
          random('fp32', n, n),
          random('fp32', n, n),
          random('fp32', n, n),
          random('fp32', n, n),
        ];
        const tensor = { param, grad, m, v, weightDecay: 0.1, l4Decay: 0, copy: 'bf16' as const };
        const inputs = { lr: one(1e-4), gradScale: one(1), correction1: one(0.1), correction2: one(0.1) };
        const made = adamw([tensor], inputs, { beta1: 0.9, beta2: 0.95, eps: 1e-8 });
        return made.flatMap((result) => [result.param, result.m, result.v]);
      },
    },
  ];
};

/** A result and its gradients by `wrt`, of the sum of its numbers. */
function withGradients(result: Value, wrt: readonly Value[]): Value[] {
  const total = sum(
    cast(result, 'fp32'),
    result.shape.map((_, axis) => axis),
  );
  return [result, ...gradients(total, wrt)];
}

/** What makes inputs and sums results is not what is measured. */
const aside = ['random-fill', 'reduce'];

/**
 * Times the kernels of a step.
 *
 * @param options - `shrink`: how many times smaller than on a GPU, a power of two to 64; `from`: rows that are left out at the
 *   beginning; `onBegin`: called before each row, with its place
 * @param onRow - called after each row
 */
export async function benchmark(
  device: Device,
  {
    shrink = 1,
    times = 5,
    from = 0,
    onBegin = () => {},
  }: { shrink?: number; times?: number; from?: number; onBegin?: (at: number, name: string) => void } = {},
  onRow: (rows: readonly Benchmark[]) => void = () => {},
): Promise<Benchmark[]> {
  const all: Benchmark[] = [];
  for (const [at, row] of rowsOf(shrink).entries()) {
    if (at < from) continue;
    onBegin(at, row.name);
    const rows = await timeRow(device, row, times);
    onRow(rows);
    all.push(...rows);
  }
  return all;
}

async function timeRow(device: Device, { name, build }: Row, times: number): Promise<Benchmark[]> {
  const graph = new Graph();
  const key = graph.constant(Int32Array.of(1, 2), [2]);
  let stream = 0;
  const random: Random = (dtype, ...shape) => {
    stream += 1;
    return randomFill(key, shape, dtype, { distribution: 'normal', stream, mean: 0, std: 0.05 });
  };
  for (const [i, value] of build(random, graph).entries()) graph.output(`out${i}`, value);
  const program = device.load(compile(graph, device.target));
  const slots = Object.fromEntries(program.outputs.map((spec) => [spec.name, device.allocate(spec.shape, spec.dtype)]));
  try {
    await device.run([{ program, slots }]);
    const runs: InstructionTime[][] = [];
    for (let i = 0; i < times; i++) runs.push((await device.run([{ program, slots }], { profile: true })).instructions);
    const [first = []] = runs;
    return first.flatMap(({ kernel, flops, bytesRead, bytesWritten }, i) => {
      const isMeasured = !aside.includes(kernel) && (kernel !== 'elementwise' || name.startsWith('copy'));
      if (!isMeasured) return [];
      const ms = median(runs.map((instructions) => (instructions[i] as InstructionTime).ms));
      return [{ name, kernel, ms, tflops: flops / ms / 1e9, gbPerSecond: (bytesRead + bytesWritten) / ms / 1e6 }];
    });
  } finally {
    for (const tensor of Object.values(slots)) tensor.dispose();
  }
}
