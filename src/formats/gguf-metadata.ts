import { HadalError } from '../core/errors.js';
import { shown } from '../core/expectation.js';

/** A metadata value. Numbers of an array lie in a typed array. */
export type GgufValue =
  | number
  | bigint
  | boolean
  | string
  | readonly GgufValue[]
  | Uint8Array
  | Int8Array
  | Uint16Array
  | Int16Array
  | Uint32Array
  | Int32Array
  | Float32Array
  | Float64Array
  | BigUint64Array
  | BigInt64Array;

/** Metadata of a GGUF file by key, read as what the caller needs; a missing key is `undefined`. */
export class GgufMetadata {
  /** @param path - of the file, for messages */
  constructor(
    readonly values: ReadonlyMap<string, GgufValue>,
    readonly path: string,
  ) {}

  /** @throws HadalError HADAL_ERR_FORMAT for anything but a text; so do the others below */
  text(key: string): string | undefined {
    return this.#as(key, 'a text', (value) => (typeof value === 'string' ? value : undefined));
  }

  bool(key: string): boolean | undefined {
    return this.#as(key, 'true or false', (value) => (typeof value === 'boolean' ? value : undefined));
  }

  number(key: string): number | undefined {
    return this.#as(key, 'a finite number', (value) => (Number.isFinite(value) ? (value as number) : undefined));
  }

  /** A whole number from 0 on. */
  integer(key: string): number | undefined {
    return this.#as(key, 'a whole number', (value) =>
      Number.isSafeInteger(value) && (value as number) >= 0 ? (value as number) : undefined,
    );
  }

  texts(key: string): readonly string[] | undefined {
    return this.#as(key, 'an array of texts', (value) =>
      Array.isArray(value) && value.every((item) => typeof item === 'string') ? value : undefined,
    );
  }

  numbers(key: string): ArrayLike<number> | undefined {
    return this.#as(key, 'an array of numbers', (value) =>
      ArrayBuffer.isView(value) && !(value instanceof BigInt64Array) && !(value instanceof BigUint64Array)
        ? (value as Float32Array)
        : undefined,
    );
  }

  #as<T>(key: string, expected: string, read: (value: GgufValue) => T | undefined): T | undefined {
    const value = this.values.get(key);
    if (value === undefined) return undefined;
    const found = read(value);
    if (found !== undefined) return found;
    throw new HadalError(
      'HADAL_ERR_FORMAT',
      `[gguf] expected ${expected} as '${key}' in ${this.path}, got ${shown(value)}`,
    );
  }
}
