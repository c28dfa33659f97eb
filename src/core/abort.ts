import { HadalError } from './errors.js';

/** Ends long work that was told to stop. @throws HadalError HADAL_ERR_ABORTED */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) {
    throw new HadalError('HADAL_ERR_ABORTED', '[hadal] interrupted before the work was done', { cause: signal.reason });
  }
}
