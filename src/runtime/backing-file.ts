import { loadAddon, type NativeFile, type NativeStorage } from '../addon/addon.js';
import { HadalError } from '../core/errors.js';

/**
 * A file without a name that tensors lie in (`device.allocate(shape, dtype, { file })`): the system keeps of it in memory
 * what is in use and there is room for. It is gone when it and its tensors are disposed of or the process ends, however
 * that happens. Linux only.
 */
export class BackingFile implements Disposable {
  readonly #native: NativeFile;

  /**
   * @param directory - on the disk that is to hold the tensors
   * @throws HadalError HADAL_ERR_IO when there can be no such file
   */
  constructor(readonly directory: string) {
    this.#native = this.#orRefuse(`to make a file in '${directory}'`, () => new (loadAddon().BackingFile)(directory));
  }

  /** A block of zeros in the file. @throws HadalError HADAL_ERR_IO where there is no room @internal */
  storage(bytes: number): NativeStorage {
    return this.#orRefuse(
      `room for ${(bytes / 2 ** 20).toFixed(1)} MiB in '${this.directory}'`,
      () => new (loadAddon().Storage)(bytes, this.#native),
    );
  }

  #orRefuse<T>(expected: string, make: () => T): T {
    try {
      return make();
    } catch (error) {
      throw new HadalError(
        'HADAL_ERR_IO',
        `[offload] expected ${expected}, got: ${(error as Error).message}; choose another directory`,
        { cause: error },
      );
    }
  }

  /** Ends it for new tensors; those that lie in it keep what they hold. More than once is harmless. */
  dispose(): void {
    this.#native.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
