/** A pair of symbols as one number; symbols stay below 2²¹. */
const pairBase = 2 ** 21;

/** Most symbols that {@link learnMerges} can number. */
export const maxVocabSize = pairBase - 1;

/** Two neighbouring symbols that become one. */
export type Merge = readonly [left: number, right: number];

/**
 * Byte-pair encoding: merges the most frequent pair of neighbours, again and again. Only the words that hold the merged
 * pair are touched. Equally frequent pairs: the one with the smaller symbols first, so that the result is one.
 * Sennrich et al. 2016, arXiv:1508.07909.
 *
 * @param words - UTF-8 bytes of each distinct word
 * @param counts - how often each comes
 * @param maxMerges - fewer are learnt when no pair is left
 * @returns in order; symbols below 256 are bytes, 256 + i is what merge i makes (no two make the same text: how a text
 * is merged does not depend on what surrounds it)
 */
export function learnMerges(
  words: readonly Uint8Array[],
  counts: ArrayLike<number>,
  maxMerges: number,
  onProgress: (merges: number) => void = () => {},
): Merge[] {
  const symbols = words.map((word) => Array.from(word));
  const pairs = new PairCounts();
  symbols.forEach((word, w) => void pairs.addWord(word, w, counts[w] as number));
  pairs.queueAll();
  const merges: Merge[] = [];
  while (merges.length < maxMerges) {
    const pair = pairs.takeMostFrequent();
    if (pair === undefined) break;
    const left = Math.floor(pair / pairBase);
    const right = pair % pairBase;
    const merged = 256 + merges.length;
    merges.push([left, right]);
    const changed = new Set<number>();
    for (const w of pairs.wordsWith(pair)) {
      const word = symbols[w] as number[];
      const joined = join(word, left, right, merged);
      if (joined.length === word.length) continue; // an earlier merge took the pair out of this word
      pairs.removeWord(word, counts[w] as number);
      for (const made of pairs.addWord(joined, w, counts[w] as number, merged)) changed.add(made);
      symbols[w] = joined;
    }
    pairs.forget(pair);
    for (const made of changed) pairs.queue(made);
    if (merges.length % 64 === 0) onProgress(merges.length);
  }
  return merges;
}

function join(word: readonly number[], left: number, right: number, merged: number): number[] {
  const joined: number[] = [];
  for (let i = 0; i < word.length; i++) {
    if (word[i] === left && word[i + 1] === right) {
      joined.push(merged);
      i++;
    } else joined.push(word[i] as number);
  }
  return joined;
}

/** How often each pair comes, in which words, and a heap of them. Heap entries with an outdated count are put right when met. */
class PairCounts {
  private readonly counts = new Map<number, number>();
  private readonly words = new Map<number, number[]>();
  private readonly heap: { pair: number; count: number }[] = [];

  /** Counts a word's pairs. @returns those that hold `only`; others are not entered as new, they were there before */
  addWord(word: readonly number[], w: number, count: number, only?: number): number[] {
    const entered: number[] = [];
    for (let i = 0; i + 1 < word.length; i++) {
      const left = word[i] as number;
      const right = word[i + 1] as number;
      const pair = left * pairBase + right;
      this.counts.set(pair, (this.counts.get(pair) ?? 0) + count);
      if (only !== undefined && left !== only && right !== only) continue;
      entered.push(pair);
      const holders = this.words.get(pair);
      if (holders === undefined) this.words.set(pair, [w]);
      else if (holders.at(-1) !== w) holders.push(w);
    }
    return entered;
  }

  removeWord(word: readonly number[], count: number): void {
    for (let i = 0; i + 1 < word.length; i++) {
      const pair = (word[i] as number) * pairBase + (word[i + 1] as number);
      this.counts.set(pair, (this.counts.get(pair) as number) - count);
    }
  }

  wordsWith(pair: number): readonly number[] {
    return this.words.get(pair) ?? [];
  }

  forget(pair: number): void {
    this.counts.delete(pair);
    this.words.delete(pair);
  }

  queueAll(): void {
    for (const pair of this.counts.keys()) this.queue(pair);
  }

  queue(pair: number): void {
    const { heap } = this;
    const entry = { pair, count: this.counts.get(pair) ?? 0 };
    let at = heap.push(entry) - 1;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!before(entry, heap[parent] as Entry)) break;
      heap[at] = heap[parent] as Entry;
      at = parent;
    }
    heap[at] = entry;
  }

  takeMostFrequent(): number | undefined {
    while (this.heap.length > 0) {
      const { pair, count } = this.pop();
      const current = this.counts.get(pair) ?? 0;
      if (current === 0) continue;
      if (current === count) return pair;
      this.queue(pair);
    }
    return undefined;
  }

  private pop(): Entry {
    const { heap } = this;
    const top = heap[0] as Entry;
    const entry = heap.pop() as Entry;
    let at = 0;
    while (heap.length > 0) {
      let child = 2 * at + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && before(heap[child + 1] as Entry, heap[child] as Entry)) child++;
      if (!before(heap[child] as Entry, entry)) break;
      heap[at] = heap[child] as Entry;
      at = child;
    }
    if (heap.length > 0) heap[at] = entry;
    return top;
  }
}

interface Entry {
  pair: number;
  count: number;
}

const before = (a: Entry, b: Entry): boolean => a.count > b.count || (a.count === b.count && a.pair < b.pair);
