// `hadal inspect --device`: what a training step would take on a GPU, on paper.
import { formatBytes, formatInteger } from '../core/format.js';
import { type Gpu, type GpuName, gpus } from '../runtime/gpus.js';
import { rooflineAssumptions } from '../runtime/roofline.js';
import { inspect } from '../train/inspect.js';
import { type PredictedStep, type PredictOptions, predictStep } from '../train/predict.js';
import { printJson, printLine, tableLines } from './output.js';

/** What is said of every number that follows. */
const warning = 'predicted, never measured';

interface RooflineFlags extends PredictOptions {
  json: boolean;
  /** Whether to plan the memory of a step, which takes as long again. */
  plan: boolean | undefined;
}

/** @param model - as of inspect() */
export async function inspectRoofline(
  model: Record<string, unknown> | string,
  { json, plan, ...options }: RooflineFlags,
): Promise<void> {
  const predicted = await predictStep(model, options);
  const { batch, seqLen, dtype } = predicted;
  const { memory } = await inspect(model, { batch, seqLen, dtype, ...(plan === undefined ? {} : { plan }) });
  const gpu = gpus[options.gpu];
  const fits = memory && memory.total <= gpu.memoryBytes;
  if (json) {
    const planned = memory && { total: memory.total, fits };
    printJson({
      note: warning,
      device: { name: options.gpu, ...gpu },
      assumptions: rooflineAssumptions,
      ...predicted,
      memory: planned,
    });
  } else {
    for (const line of rooflineLines(predicted, options.gpu, memory?.total ?? null)) printLine(line);
  }
}

function rooflineLines(predicted: PredictedStep, name: GpuName, memoryBytes: number | null): string[] {
  const gpu: Gpu = gpus[name];
  const { batch, seqLen, microBatches, dtype, seconds, tokensPerSecond, mfu, hardwareFlops, hardwareShare } = predicted;
  const rows = `${microBatches === 1 ? 'one micro-batch' : `${formatInteger(microBatches)} micro-batches`} of ${batch} × ${formatInteger(seqLen)} tokens`;
  return [
    `${gpu.title}, ${dtype}: ${warning}`,
    `an update of ${rows}, on one GPU, in a CUDA graph`,
    '',
    ...tableLines([
      ['kernel', 'instructions', 'ms', 'of the step', 'TFLOP', 'GB', 'limited by', 'of its roofline'],
      ...predicted.kernels.map((kernel) => [
        kernel.kernel,
        formatInteger(kernel.count),
        milliseconds(kernel.seconds),
        percent(kernel.seconds / seconds),
        (kernel.flops / 1e12).toFixed(3),
        (kernel.bytes / 1e9).toFixed(2),
        kernel.bound,
        percent(kernel.shareOfRoofline),
      ]),
    ]),
    '',
    ...tableLines([
      ['step', `${milliseconds(seconds)} ms`],
      ['tokens a second', formatInteger(tokensPerSecond)],
      [`MFU, of ${teraflops(predicted.peakFlops)} TFLOP/s`, percent(mfu)],
      ['hardware', `${teraflops(hardwareFlops)} TFLOP/s, ${percent(hardwareShare)}`],
    ]),
    '',
    memoryLine(memoryBytes, gpu),
    ...assumptionLines(gpu),
  ];
}

function memoryLine(planned: number | null, gpu: Gpu): string {
  const there = `${formatBytes(gpu.memoryBytes)} of memory`;
  if (planned === null) return `memory is not planned; the GPU has ${there}`;
  const takes = `it takes ${formatBytes(planned)} with every activation kept`;
  if (planned <= gpu.memoryBytes) return `it fits: ${takes}, the GPU has ${there}`;
  return `IT DOES NOT FIT: ${takes}, the GPU has ${there}; the time is that of a larger card of the same speed`;
}

function assumptionLines(gpu: Gpu): string[] {
  const { reachable, reachableFp32, reachableBandwidth, latencySeconds } = rooflineAssumptions;
  const of = reachable[gpu.kind];
  return [
    `peaks (${gpu.source}): ${teraflops(gpu.halfFlops)} TFLOP/s in 16 bits, ${teraflops(gpu.fp32Flops)} in fp32, ${formatInteger(gpu.bandwidth / 1e9)} GB/s`,
    `assumed to be reached of them: library products ${percent(of.libraryProduct)}, own products ${percent(of.ownProduct)}, attention ${percent(of.attention)}, its gradient ${percent(of.attentionGradient)}, fp32 ${percent(reachableFp32)}, memory ${percent(reachableBandwidth)}; ${(latencySeconds * 1e6).toFixed(1)} µs an instruction`,
  ];
}

const milliseconds = (seconds: number): string => (seconds * 1e3).toFixed(seconds < 0.1 ? 2 : 1);
const percent = (share: number): string => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
const teraflops = (flops: number): string => (flops / 1e12).toFixed(flops < 1e14 ? 1 : 0);
