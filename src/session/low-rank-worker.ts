import { toWorkerResult, type WorkerResult } from '../data/worker-pool.js';
import { openDevice } from '../runtime/device.js';
import type { Matrix } from './products.js';
import { type TruncatedSvd, truncatedSvd } from './truncated-svd.js';

/** A matrix to approximate: plain data, so that it can be done off the main thread. */
export interface FactorizeTask {
  /** [M, N]. */
  matrix: Matrix;
  rank: number;
}

/** Approximates a matrix by factors. */
export function factorize({ matrix, rank }: FactorizeTask): Promise<WorkerResult<TruncatedSvd>> {
  return toWorkerResult(async () => {
    using device = openDevice('cpu', { threads: 1 });
    return await truncatedSvd(device, matrix, rank);
  });
}
