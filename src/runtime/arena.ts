/** Kernels may use aligned vector loads, and TensorFlow.js aliases memory of this alignment. */
const alignment = 64;

/** A place in the arena. */
export interface Block {
  /** Known once the arena is laid out. */
  offset: number;
  bytes: number;
}

/** A block and when it is in use. */
interface Tenancy extends Block {
  from: number;
  until: number;
}

/**
 * One range of memory for the values of a program as they come and go. Where each lies is decided when all are known: the
 * largest first, each in the tightest gap beside those in use at the same time (Pisarchyk & Lee 2020, arXiv:2001.03288, greedy
 * by size).
 */
export class Arena {
  readonly #tenancies: Tenancy[] = [];
  #now = 0;
  #peakBytes = 0;

  /** Memory in use from now on. */
  allocate(bytes: number): Block {
    const size = Math.max(alignment, Math.ceil(bytes / alignment) * alignment);
    const tenancy = { offset: Number.NaN, bytes: size, from: this.#now++, until: Number.POSITIVE_INFINITY };
    this.#tenancies.push(tenancy);
    return tenancy;
  }

  /** Memory no longer in use from now on. */
  free(block: Block): void {
    (block as Tenancy).until = this.#now++;
  }

  /** Gives every block its place. */
  layOut(): void {
    const byOffset: Tenancy[] = [];
    for (const tenancy of [...this.#tenancies].sort((a, b) => b.bytes - a.bytes)) {
      let end = 0;
      let best = Number.POSITIVE_INFINITY;
      let bestGap = Number.POSITIVE_INFINITY;
      for (const other of byOffset) {
        if (other.until < tenancy.from || tenancy.until < other.from) continue;
        const gap = other.offset - end;
        if (gap >= tenancy.bytes && gap < bestGap) [best, bestGap] = [end, gap];
        end = Math.max(end, other.offset + other.bytes);
      }
      tenancy.offset = best === Number.POSITIVE_INFINITY ? end : best;
      this.#peakBytes = Math.max(this.#peakBytes, tenancy.offset + tenancy.bytes);
      byOffset.splice(placeIn(byOffset, tenancy.offset), 0, tenancy);
    }
  }

  /** Bytes of the range, once it is laid out. */
  get peakBytes(): number {
    return this.#peakBytes;
  }

  /** What is in use when that is most. */
  get atPeak(): readonly Block[] {
    const changes = new Float64Array(this.#now);
    for (const { from, until, bytes } of this.#tenancies) {
      changes[from] = bytes;
      if (until < changes.length) changes[until] = -bytes;
    }
    let [bytes, most, when] = [0, 0, 0];
    for (const [at, change] of changes.entries()) {
      bytes += change;
      if (bytes > most) [most, when] = [bytes, at];
    }
    return this.#tenancies.filter(({ from, until }) => from <= when && when < until);
  }
}

/** Where a block of the given offset belongs among those sorted by it. */
function placeIn(sorted: readonly Block[], offset: number): number {
  let [low, high] = [0, sorted.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((sorted[middle] as Block).offset < offset) low = middle + 1;
    else high = middle;
  }
  return low;
}
