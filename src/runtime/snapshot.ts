// What tensors hold at one moment, copied while the steps go on.
import { dtypes } from '../core/dtype.js';
import { HadalError } from '../core/errors.js';
import { type Shape, sizeOf } from '../core/shape.js';
import type { Device } from './device.js';
import type { Tensor } from './tensor.js';

/** Tensors share a block up to this size: large blocks go back to the system when they are freed, small ones do not. */
const blockBytes = 2 ** 30;

/**
 * Copies of tensors as they are after the steps that were given before. Later steps run meanwhile; one that is about to
 * write a tensor waits until its copy is made.
 */
export class Snapshot {
  /** Fulfilled when all copies are made. */
  readonly done: Promise<void>;
  readonly #copies = new Map<Tensor, Uint8Array>();

  /** @throws HadalError HADAL_ERR_MEMORY */
  constructor(device: Device, tensors: Iterable<Tensor>) {
    let block: { buffer: ArrayBuffer; at: number } | null = null;
    const list = [...new Set(tensors)];
    for (const [i, tensor] of list.entries()) {
      if (!block || block.at + tensor.bytes > block.buffer.byteLength) {
        block = { buffer: allocate(blockSize(list.slice(i))), at: 0 };
      }
      this.#copies.set(tensor, new Uint8Array(block.buffer, block.at, tensor.bytes));
      block.at += aligned(tensor.bytes);
    }
    const targets = [...this.#copies.values()];
    this.done = device.native
      .snapshot(
        list.map(({ storage }) => storage),
        targets,
      )
      .catch((error: unknown) => {
        throw device.refusal(error);
      });
    this.done.catch(() => {}); // reported where it is awaited
  }

  /** Raw contents of a part of a tensor; `offset` counts elements. Not copied. */
  readonly read = async (tensor: Tensor, { shape, offset }: { shape: Shape; offset: number }): Promise<Uint8Array> => {
    await this.done;
    const bytes = dtypes[tensor.dtype].blockBits / 8;
    return (this.#copies.get(tensor) as Uint8Array).subarray(offset * bytes, (offset + sizeOf(shape)) * bytes);
  };

  /** The memory of the copies, to be handed to another thread. */
  get buffers(): ArrayBuffer[] {
    return [...new Set([...this.#copies.values()].map(({ buffer }) => buffer as ArrayBuffer))];
  }
}

/** Bytes of the block that holds the first of the tensors, and as many of the next as there is room for. */
function blockSize(tensors: readonly Tensor[]): number {
  let bytes = 0;
  for (const tensor of tensors) {
    if (bytes > 0 && bytes + tensor.bytes > blockBytes) break;
    bytes += aligned(tensor.bytes);
  }
  return bytes;
}

/** Typed arrays of any number format may begin at such a byte. */
const aligned = (bytes: number): number => Math.ceil(bytes / 8) * 8;

function allocate(bytes: number): ArrayBuffer {
  try {
    return new ArrayBuffer(bytes);
  } catch (error) {
    throw new HadalError(
      'HADAL_ERR_MEMORY',
      `[device] expected ${(bytes / 2 ** 20).toFixed(1)} MiB for a snapshot, the system refused; set checkpoint.background=false`,
      { cause: error },
    );
  }
}
