import type { NativeStorage } from '../addon/addon.js';
import { bytesOf, type DType } from '../core/dtype.js';
import { HadalError } from '../core/errors.js';
import { formatShape, type Shape, sizeOf } from '../core/shape.js';
import type { Device } from './device.js';

/**
 * A tensor in a device's memory. Free it with `using` or `dispose()`; a queued step that uses it keeps its memory until
 * the step is done, and the garbage collector frees what was forgotten.
 */
export class Tensor implements Disposable {
  #storage: NativeStorage | null;

  /** @internal */
  constructor(
    readonly device: Device,
    storage: NativeStorage,
    readonly shape: Shape,
    readonly dtype: DType,
  ) {
    this.#storage = storage;
  }

  /** Number of elements. */
  get size(): number {
    return sizeOf(this.shape);
  }

  /** Bytes it takes. */
  get bytes(): number {
    return bytesOf(this.dtype, this.size);
  }

  /** The native block. @throws HadalError HADAL_ERR_DISPOSED @internal */
  get storage(): NativeStorage {
    if (!this.#storage) {
      throw new HadalError(
        'HADAL_ERR_DISPOSED',
        `[tensor] expected a live tensor, got a disposed one of shape ${formatShape(this.shape)}`,
      );
    }
    return this.#storage;
  }

  /** Copies raw contents out, in order with the steps. `target` begins at byte `offset` of the tensor. */
  async read<T extends NodeJS.TypedArray>(target: T, offset = 0): Promise<T> {
    await this.#transfer('read', target, offset);
    return target;
  }

  /** Copies raw contents in, in order with the steps. */
  async write(source: NodeJS.TypedArray, offset = 0): Promise<void> {
    await this.#transfer('write', source, offset);
  }

  async #transfer(direction: 'read' | 'write', array: NodeJS.TypedArray, offset: number): Promise<void> {
    const { storage } = this;
    try {
      await this.device.native[direction](storage, offset, array);
    } catch (error) {
      throw this.device.refusal(error);
    }
  }

  /** All elements of an fp32 tensor. */
  async toFloat32(): Promise<Float32Array> {
    return this.#readAs('fp32', new Float32Array(this.size));
  }

  /** All elements of an int32 tensor. */
  async toInt32(): Promise<Int32Array> {
    return this.#readAs('int32', new Int32Array(this.size));
  }

  async #readAs<T extends NodeJS.TypedArray>(dtype: DType, target: T): Promise<T> {
    if (this.dtype !== dtype) {
      throw new HadalError('HADAL_ERR_DTYPE', `[tensor] expected an ${dtype} tensor, got ${this.dtype}`);
    }
    return this.read(target);
  }

  /** Gives its memory back; more than once is harmless. */
  dispose(): void {
    this.#storage?.dispose();
    this.#storage = null;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
