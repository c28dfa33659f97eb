// What of a run's configuration its programs are traced from.
import type { PrecisionDType } from '../passes/narrow.js';
import { type TrainConfig, trainSchema } from './config.js';
import type { StepConfig } from './step.js';

/** A configuration whose automatic sizes are decided. */
export type SizedConfig = TrainConfig & { batch: number; gradAccumulationSteps: number };

type Chosen = 'loss' | 'precision' | 'optimizer' | 'activationCheckpointing' | 'watch' | 'memory' | 'dist';

/**
 * @param dtype - what `dtype: 'auto'` came to
 * @param place - among the processes that train together
 */
export function stepConfigOf(
  config: Pick<SizedConfig, Chosen | 'batch' | 'gradAccumulationSteps' | 'seqLen' | 'steps'>,
  dtype: PrecisionDType,
  { rank, size }: { rank: number; size: number } = { rank: 0, size: 1 },
): StepConfig {
  const { batch, gradAccumulationSteps, seqLen, loss, precision, optimizer, activationCheckpointing, watch, steps } =
    config;
  const { bucketMiB, overlap, zero, compression } = config.dist;
  const { lossChunkRows, offload } = config.memory;
  const { layers, fp8Scale, lossScale } = precision;
  const { clipNorm, clipValue, adaptiveClip, lr, minLrRatio, warmupSteps, warmupShare, schedule, ...how } = optimizer;
  const errorFeedback = compression.errorFeedback ?? !['none', 'fp16', 'bf16'].includes(compression.kind);
  const usesFp16 = [{ dtype }, ...layers].some((one) => one.dtype === 'fp16');
  return {
    batch: Math.ceil(batch / gradAccumulationSteps / size),
    seqLen,
    labelSmoothing: loss.labelSmoothing,
    zLoss: loss.zLoss,
    chunkRows: lossChunkRows === 'auto' ? 0 : lossChunkRows,
    precision: { dtype, layers, fp8: { scale: fp8Scale } },
    lossScale: usesFp16 ? lossScale : null,
    clip: { norm: clipNorm, value: clipValue, adaptive: adaptiveClip },
    optimizer: { ...how, steps },
    activationCheckpointing,
    watchesActivations: watch.activationsEvery > 0,
    offload: { optimizer: offload.optimizer, parameters: offload.parameters },
    dist:
      size === 1
        ? null
        : {
            rank,
            worldSize: size,
            zero,
            bucketBytes: bucketMiB * 2 ** 20,
            overlap,
            compression: { ...compression, errorFeedback },
          },
  };
}

/**
 * What steps of rows are traced from where nothing else is said.
 *
 * @param rows - `batch`: those of one process
 * @param sharing - how many processes there are, and their ZeRO stage; default: one
 */
export function defaultStepConfig(
  rows: { batch: number; seqLen: number },
  dtype: PrecisionDType,
  { worldSize, zero }: { worldSize: number; zero: number } = { worldSize: 1, zero: 0 },
): StepConfig {
  const { loss, precision, optimizer, activationCheckpointing, watch, memory, dist } = trainSchema.shape;
  const config = {
    loss: loss.parse(undefined),
    precision: precision.parse(undefined),
    optimizer: optimizer.parse(undefined),
    activationCheckpointing: activationCheckpointing.parse(undefined),
    watch: watch.parse(undefined),
    memory: memory.parse(undefined),
    dist: dist.parse({ zero }),
    ...{ batch: rows.batch * worldSize, seqLen: rows.seqLen },
    ...{ gradAccumulationSteps: 1, steps: 1 },
  };
  return stepConfigOf(config, dtype, { rank: 0, size: worldSize });
}
