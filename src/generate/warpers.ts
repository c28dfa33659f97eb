// What logits become before a token is drawn. V vocabulary. Each step follows the logits processor of that name in
// transformers, ties included, and so does their order: repetition penalty, temperature, top-k, top-p, min-p.

/**
 * Repetition penalty. Keskar et al. 2019, arXiv:1909.05858; negative logits are multiplied, as transformers does.
 *
 * @param logits - [V]
 * @param seen - ids that occur already
 */
export function penalized(logits: Float32Array, seen: Iterable<number>, penalty: number): Float32Array {
  const changed = logits.slice();
  for (const id of seen) {
    const logit = logits[id] as number;
    changed[id] = logit < 0 ? logit * penalty : logit / penalty;
  }
  return changed;
}

/** The likeliest token, the lowest id on ties. */
export function likeliest(logits: Float32Array): number {
  let best = 0;
  for (let id = 1; id < logits.length; id++) if ((logits[id] as number) > (logits[best] as number)) best = id;
  return best;
}

/** Tokens that may be drawn, in the order of their ids. */
export interface Candidates {
  ids: Uint32Array;
  /** Of each, proportional to its probability; the greatest of all logits has 1. */
  weights: Float64Array;
}

/** What the logits are narrowed by, each of which may be left out by Infinity, 1 and 0. */
export interface Narrowing {
  topK: number;
  topP: number;
  minP: number;
}

/** Applies temperature (above 0), top-k, top-p and min-p. */
export function candidatesOf(logits: Float32Array, temperature: number, { topK, topP, minP }: Narrowing): Candidates {
  const ids = topK < logits.length ? idsFrom(logits, kthGreatest(logits, topK)) : everyId(logits.length);
  const peak = logits[likeliest(logits)] as number;
  const weights = new Float64Array(ids.length);
  for (let i = 0; i < ids.length; i++) {
    weights[i] = Math.exp(((logits[ids[i] as number] as number) - peak) / temperature);
  }
  const nucleus = topP < 1 ? nucleusOf(weights, topP) : { least: 0, ties: Number.POSITIVE_INFINITY };
  return keep({ ids, weights }, nucleus, minP);
}

/** The k-th greatest of the values. A heap of k with the least on top: one comparison for most values. */
function kthGreatest(values: Float32Array, k: number): number {
  const heap = values.slice(0, k).sort(); // ascending order is a heap
  for (let i = k; i < values.length; i++) {
    const value = values[i] as number;
    if (value > (heap[0] as number)) replaceLeast(heap, value);
  }
  return heap[0] as number;
}

function replaceLeast(heap: Float32Array, value: number): void {
  let hole = 0;
  for (;;) {
    let child = 2 * hole + 1;
    if (child >= heap.length) break;
    if (child + 1 < heap.length && (heap[child + 1] as number) < (heap[child] as number)) child++;
    if ((heap[child] as number) >= value) break;
    heap[hole] = heap[child] as number;
    hole = child;
  }
  heap[hole] = value;
}

function idsFrom(logits: Float32Array, least: number): Uint32Array {
  const ids: number[] = [];
  for (let id = 0; id < logits.length; id++) if ((logits[id] as number) >= least) ids.push(id);
  return Uint32Array.from(ids);
}

function everyId(count: number): Uint32Array {
  const ids = new Uint32Array(count);
  for (let id = 0; id < count; id++) ids[id] = id;
  return ids;
}

/** A set of greatest weights: those above `least`, and the first `ties` of those equal to it. */
interface Nucleus {
  least: number;
  ties: number;
}

/** The smallest set of the greatest weights that has `share` of their sum. Holtzman et al. 2020, arXiv:1904.09751. */
function nucleusOf(weights: Float64Array, share: number): Nucleus {
  let total = 0;
  for (const weight of weights) total += weight;
  // All weights below this have less than 1 - share together, so the set is found among the others: few need sorting.
  const negligible = ((1 - share) * total) / weights.length;
  const sorted = weights.filter((weight) => weight >= negligible).sort();
  let first = sorted.length - 1;
  for (let mass = sorted[first] as number; first > 0 && mass < share * total; mass += sorted[first] as number) first--;
  const least = sorted[first] as number;
  let end = first;
  while (end < sorted.length && sorted[end] === least) end++;
  return { least, ties: end - first };
}

/** Keeps the nucleus, and of it what has `minP` of the greatest weight. Nguyen et al. 2024, arXiv:2407.01082. */
function keep({ ids, weights }: Candidates, { least, ties }: Nucleus, minP: number): Candidates {
  if (least === 0 && minP === 0) return { ids, weights };
  let kept = 0;
  let tiesLeft = ties;
  for (let i = 0; i < ids.length; i++) {
    const weight = weights[i] as number;
    if (weight < least || weight < minP || (weight === least && tiesLeft-- <= 0)) continue;
    ids[kept] = ids[i] as number;
    weights[kept++] = weight;
  }
  return { ids: ids.subarray(0, kept), weights: weights.subarray(0, kept) };
}
