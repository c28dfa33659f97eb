/** Kernels may use aligned vector loads, and TensorFlow.js aliases memory of this alignment. */
const alignment = 64;

/** A place in the arena. */
export interface Block {
  offset: number;
  bytes: number;
}

/** Hands out places in one range of memory as a program's values come and go; best fit, the lowest first. */
export class Arena {
  /** In use, by offset. */
  readonly #blocks: Block[] = [];
  #peakBytes = 0;
  #atPeak: readonly Block[] = [];

  /** The most memory that was ever needed. */
  get peakBytes(): number {
    return this.#peakBytes;
  }

  /** What was in use when that was first so. */
  get atPeak(): readonly Block[] {
    return this.#atPeak;
  }

  allocate(bytes: number): Block {
    const size = Math.max(alignment, Math.ceil(bytes / alignment) * alignment);
    let best = -1;
    let bestGap = Number.POSITIVE_INFINITY;
    let end = 0;
    for (let i = 0; i < this.#blocks.length; i++) {
      const block = this.#blocks[i] as Block;
      const gap = block.offset - end;
      if (gap >= size && gap < bestGap) {
        best = i;
        bestGap = gap;
      }
      end = block.offset + block.bytes;
    }
    const at = best === -1 ? this.#blocks.length : best;
    const before = this.#blocks[at - 1];
    const block = { offset: before ? before.offset + before.bytes : 0, bytes: size };
    this.#blocks.splice(at, 0, block);
    if (block.offset + size > this.#peakBytes) {
      this.#peakBytes = block.offset + size;
      this.#atPeak = [...this.#blocks];
    }
    return block;
  }

  free(block: Block): void {
    this.#blocks.splice(this.#blocks.indexOf(block), 1);
  }
}
