import type { Queue } from '../graph/graph.js';

/** Numbers shared with native/core/program.h. */
const spaces = { none: 0, arena: 1, slot: 2, input: 3, constant: 4 } as const;
const queues: Record<Queue, number> = { compute: 0, communication: 1, copy: 2 };

/** Where an instruction finds a buffer. */
export interface BufferRef {
  space: Exclude<keyof typeof spaces, 'none'>;
  index: number;
  offset: number;
  bytes: number;
}

/** One kernel call with its places. */
export interface PlannedInstruction {
  kernel: string;
  params: Uint8Array;
  queue: Queue;
  /** Whether its time is wanted in every run. */
  isTimed: boolean;
  workspace: { offset: number; bytes: number };
  predicate: BufferRef | null;
  buffers: (BufferRef | null)[];
  /** Earlier instructions on other queues that must be done. */
  waits: number[];
}

/** Instructions as the words that native/core/program.cpp decodes. */
export function encode(instructions: readonly PlannedInstruction[]): {
  words: Float64Array;
  params: Uint8Array;
  kernels: string[];
} {
  const kernels = [...new Set(instructions.map(({ kernel }) => kernel))];
  const kernelIndex = new Map(kernels.map((kernel, i) => [kernel, i]));
  const words: number[] = [];
  const blocks: Uint8Array[] = [];
  let paramsBytes = 0;
  const ref = (buffer: BufferRef | null) =>
    buffer ? [spaces[buffer.space], buffer.index, buffer.offset, buffer.bytes] : [spaces.none, 0, 0, 0];
  for (const { kernel, params, queue, isTimed, workspace, predicate, buffers, waits } of instructions) {
    words.push(kernelIndex.get(kernel) as number, paramsBytes, queues[queue], Number(isTimed));
    words.push(
      workspace.offset,
      workspace.bytes,
      ...ref(predicate),
      buffers.length,
      ...buffers.flatMap(ref),
      waits.length,
      ...waits,
    );
    blocks.push(params);
    paramsBytes += Math.ceil(params.byteLength / 8) * 8;
  }
  return { words: Float64Array.from(words), params: joinAligned(blocks, 8), kernels };
}

/** Blocks in a row, each of which begins at a multiple of `alignment`. */
export function joinAligned(blocks: readonly Uint8Array[], alignment: number): Uint8Array {
  const aligned = ({ byteLength }: Uint8Array) => Math.ceil(byteLength / alignment) * alignment;
  const joined = new Uint8Array(blocks.reduce((bytes, block) => bytes + aligned(block), 0));
  let offset = 0;
  for (const block of blocks) {
    joined.set(block, offset);
    offset += aligned(block);
  }
  return joined;
}
