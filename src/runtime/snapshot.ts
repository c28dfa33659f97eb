// What tensors hold at one moment, copied while the steps go on.
import type { NativeStorage } from '../addon/addon.js';
import { dtypes } from '../core/dtype.js';
import { HadalError } from '../core/errors.js';
import { type Shape, sizeOf } from '../core/shape.js';
import type { Device } from './device.js';
import type { Tensor } from './tensor.js';

/** Tensors share a block up to this size: large blocks go back to the system when they are freed, small ones do not. */
const blockBytes = 2 ** 30;

/** Room for copies of tensors, and the copies once they are taken. */
export class Snapshot {
  readonly #copies = new Map<Tensor, Uint8Array>();
  #done: Promise<void> | null = null;

  /**
   * Makes room. The system provides it while steps go on: to be made some time before it is used, since copies into
   * memory that is not there yet take ten times as long.
   *
   * @throws HadalError HADAL_ERR_MEMORY
   */
  constructor(
    private readonly device: Device,
    tensors: Iterable<Tensor>,
  ) {
    const list = [...new Set(tensors)];
    let block = { buffer: new ArrayBuffer(0), at: 0 };
    for (const [i, tensor] of list.entries()) {
      if (block.at + tensor.bytes > block.buffer.byteLength) block = { buffer: allocate(sizeOfBlock(list, i)), at: 0 };
      this.#copies.set(tensor, new Uint8Array(block.buffer, block.at, tensor.bytes));
      block.at += aligned(tensor.bytes);
    }
    this.#prepare().catch(() => {}); // taking it says why
  }

  async #prepare(): Promise<void> {
    await this.device.native.prepare(this.buffers.map((buffer) => new Uint8Array(buffer)));
  }

  /**
   * Copies the tensors as they are after the steps that were given before. Later steps run meanwhile; one that is about
   * to write a tensor waits until its copy is made. To be called once.
   */
  take(): void {
    this.#done = this.#copy([...this.#copies.keys()].map(({ storage }) => storage));
    this.#done.catch(() => {}); // reported where it is awaited
  }

  async #copy(storages: NativeStorage[]): Promise<void> {
    try {
      await this.device.native.snapshot(storages, [...this.#copies.values()]);
    } catch (error) {
      throw this.device.refusal(error);
    }
  }

  /** Raw contents of a part of a tensor that was taken; `offset` counts elements. Not copied. */
  readonly read = async (tensor: Tensor, { shape, offset }: { shape: Shape; offset: number }): Promise<Uint8Array> => {
    await this.#done;
    const bytes = dtypes[tensor.dtype].blockBits / 8;
    return (this.#copies.get(tensor) as Uint8Array).subarray(offset * bytes, (offset + sizeOf(shape)) * bytes);
  };

  /** The memory of the copies, to be handed to another thread. */
  get buffers(): ArrayBuffer[] {
    return [...new Set([...this.#copies.values()].map(({ buffer }) => buffer as ArrayBuffer))];
  }
}

/** Bytes of a block that holds a tensor, and as many of the next as there is room for. */
function sizeOfBlock(tensors: readonly Tensor[], first: number): number {
  let bytes = 0;
  for (const tensor of tensors.slice(first)) {
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
