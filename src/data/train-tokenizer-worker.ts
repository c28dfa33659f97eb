import type { MessagePort } from 'node:worker_threads';
import { learnMerges, type Merge } from './learn-merges.js';
import { preTokenize } from './pre-tokenize.js';
import { toWorkerResult, type WorkerResult } from './worker-pool.js';

/** Distinct words and how often each comes. */
export interface WordCounts {
  readonly words: string[];
  readonly counts: number[];
}

/** Counts the words of some texts. */
export function countWords(texts: string[]): Promise<WorkerResult<WordCounts>> {
  return toWorkerResult(() => {
    const counts = new Map<string, number>();
    for (const text of texts) {
      for (const word of preTokenize(text)) counts.set(word, (counts.get(word) ?? 0) + 1);
    }
    return { words: [...counts.keys()], counts: [...counts.values()] };
  });
}

/** What to learn; `progress` is told the number of merges now and then. */
export interface MergeTask extends WordCounts {
  readonly maxMerges: number;
  readonly progress: MessagePort;
}

/** Runs {@link learnMerges} off the main thread. */
export function mergeWords({ words, counts, maxMerges, progress }: MergeTask): Promise<WorkerResult<Merge[]>> {
  return toWorkerResult(() => {
    const encoder = new TextEncoder();
    const bytes = words.map((word) => encoder.encode(word));
    return learnMerges(bytes, counts, maxMerges, (merges) => progress.postMessage(merges));
  });
}
