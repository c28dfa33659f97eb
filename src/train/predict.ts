// What a training step would take on a GPU, on paper: runtime/roofline.ts over the programs of an update.
import { HadalError } from '../core/errors.js';
import { countModel } from '../models/inspect.js';
import type { PrecisionDType } from '../passes/narrow.js';
import { finished } from '../runtime/compile.js';
import { type GpuName, gpus } from '../runtime/gpus.js';
import { byKernel, type PredictedKernel, type PredictedNode, predictNodes } from '../runtime/roofline.js';
import { openModel } from './inspect.js';
import { type StepPart, traceStep } from './step.js';
import { defaultStepConfig } from './step-config.js';

/** What {@link predictStep} is asked. */
export interface PredictOptions {
  gpu: GpuName;
  /** Rows a micro-batch; 1 unless given. */
  batch?: number;
  /** Tokens a row; the longest the model takes, at most 4096, unless given. */
  seqLen?: number;
  /** Micro-batches an update; 1 unless given. */
  microBatches?: number;
  /** Number format of the computation; bf16 unless given. */
  dtype?: PrecisionDType;
}

/** What an update is predicted to take. Nothing of it is measured. */
export interface PredictedStep extends Required<PredictOptions> {
  seconds: number;
  tokensPerSecond: number;
  /** Operations of the model, 6 a multiplied parameter and attention without its mask (PaLM), by the GPU's peak. */
  mfu: number;
  /** Operations a second that kernels do: of attention what the causal mask leaves. */
  hardwareFlops: number;
  /** That by the GPU's peak. */
  hardwareShare: number;
  /** The peak that both are shares of. */
  peakFlops: number;
  kernels: PredictedKernel[];
  /** In the order of the programs of the update. */
  instructions: PredictedNode[];
}

/**
 * Predicts an update of a single GPU from the operations and bytes of each instruction, whether or not the model fits into
 * its memory. Nothing is allocated, and nothing of the gradient is computed a second time.
 *
 * @param model - as of inspect()
 * @throws HadalError HADAL_ERR_CONFIG, HADAL_ERR_IO
 */
export async function predictStep(
  model: Record<string, unknown> | string,
  options: PredictOptions,
): Promise<PredictedStep> {
  const made = await openModel(model);
  const { gpu, batch = 1, seqLen = Math.min(made.maxPositions, 4096), microBatches = 1, dtype = 'bf16' } = options;
  if (seqLen > made.maxPositions) {
    const expected = `[inspect] expected rows of at most ${made.maxPositions} tokens for this model`;
    throw new HadalError('HADAL_ERR_CONFIG', `${expected}, got ${seqLen}`);
  }
  const step = defaultStepConfig({ batch, seqLen }, dtype);
  const instructions = programsOf(microBatches).flatMap(([part, times]) =>
    predictNodes(finished(traceStep(made, step, part), 'none'), gpus[gpu], times),
  );
  const kernels = byKernel(instructions);
  const sum = (pick: (kernel: PredictedKernel) => number) => kernels.reduce((total, kernel) => total + pick(kernel), 0);
  const seconds = sum((kernel) => kernel.seconds);
  const tokensPerSecond = (batch * seqLen * microBatches) / seconds;
  const { model: plain, withMtp } = countModel(made, seqLen);
  const peakFlops = dtype === 'fp32' ? gpus[gpu].fp32Flops : gpus[gpu].halfFlops;
  const hardwareFlops = sum(({ flops }) => flops) / seconds;
  return {
    ...{ gpu, batch, seqLen, microBatches, dtype, seconds, tokensPerSecond, hardwareFlops, peakFlops },
    mfu: (tokensPerSecond * (withMtp ?? plain).flopsPerToken) / peakFlops,
    hardwareShare: hardwareFlops / peakFlops,
    kernels,
    instructions,
  };
}

const programsOf = (microBatches: number): readonly (readonly [StepPart, number])[] =>
  microBatches === 1
    ? [['whole', 1]]
    : [
        ['first', 1],
        ['next', microBatches - 1],
        ['apply', 1],
      ];
