/** Linear warm-up, then a cosine down to a share of the peak. Loshchilov & Hutter 2016, arXiv:1608.03983, eq. 5. */
export interface CosineSchedule {
  lr: number;
  minLrRatio: number;
  warmupSteps: number;
  /** Updates of the whole run. */
  steps: number;
}

/** Learning rate of update `step`, counted from 0. */
export function cosineLr({ lr, minLrRatio, warmupSteps, steps }: CosineSchedule, step: number): number {
  if (step < warmupSteps) return (lr * (step + 1)) / warmupSteps;
  const progress = Math.min(1, (step - warmupSteps) / Math.max(1, steps - warmupSteps));
  return lr * (minLrRatio + ((1 - minLrRatio) * (1 + Math.cos(Math.PI * progress))) / 2);
}
