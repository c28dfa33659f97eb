// What of training in several processes is fixed when the step is traced. Plain data.
import type { Ranks } from '../ops/collectives.js';

/** How the sum of the gradients over all processes is sent; see the configuration's `dist.compression`. */
export interface CompressionConfig {
  kind: 'none' | 'fp16' | 'bf16' | 'int8' | 'topk' | 'powersgd';
  errorFeedback: boolean;
  density: number;
  rank: number;
  startStep: number;
}

/** A process among those that train together on shares of the data. */
export interface DistConfig {
  rank: number;
  worldSize: number;
  /** ZeRO stage; see the configuration's `dist.zero`. */
  zero: number;
  /** Numbers of gradients that one call sums, in fp32 bytes. */
  bucketBytes: number;
  /** Whether they are summed while the backward pass goes on. */
  overlap: boolean;
  compression: CompressionConfig;
}

/** The processes that share the data. */
export const dataRanks = ({ worldSize }: DistConfig): Ranks => ({ axis: 'dp', size: worldSize });

/** Slots of what compression left of the gradients, by parameter. Each process has its own; checkpoints hold them all. */
export const residualPrefix = 'residual/';
