// The header of a GGUF file: metadata and where the tensors lie. https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
import { HadalError } from '../core/errors.js';
import { formatShape, type Shape, sizeOf } from '../core/shape.js';
import { type GgufType, ggufTypes } from './gguf-blocks.js';
import { GgufMetadata, type GgufValue } from './gguf-metadata.js';

/** Where a tensor lies. */
export interface GgufTensor {
  readonly type: GgufType;
  /** Row-major, the slowest dim first: the reverse of the file's order. */
  readonly shape: Shape;
  /** From the start of its file. */
  readonly byteOffset: number;
  readonly byteLength: number;
}

/** What stands before the tensors' data. */
export interface GgufHeader {
  readonly metadata: GgufMetadata;
  readonly tensors: ReadonlyMap<string, GgufTensor>;
}

/** Says that the header goes on beyond the bytes that were read: read so many and parse again. */
export class MoreHeaderBytes extends Error {
  constructor(readonly byteLength: number) {
    super(`the header needs ${byteLength} bytes`);
  }
}

export function formatError(path: string, expected: string, got: string): HadalError {
  return new HadalError('HADAL_ERR_FORMAT', `[gguf] expected ${expected} in ${path}, got ${got}; get the file anew`);
}

const typedArrays = {
  0: Uint8Array,
  1: Int8Array,
  2: Uint16Array,
  3: Int16Array,
  4: Uint32Array,
  5: Int32Array,
  6: Float32Array,
  10: BigUint64Array,
  11: BigInt64Array,
  12: Float64Array,
} as const;
const [boolType, stringType, arrayType] = [7, 8, 9];
const maxDepth = 4; // arrays in arrays; files have one level

/** Reads one thing after another. Nothing is allocated before the file is known to be long enough for it. */
class Cursor {
  position = 0;
  readonly #view: DataView;
  readonly #text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

  constructor(
    readonly bytes: Uint8Array,
    readonly fileBytes: number,
    readonly path: string,
  ) {
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  fail(expected: string, got: string): HadalError {
    return formatError(this.path, expected, `${got} before byte ${this.position}`);
  }

  /** Passes over `length` bytes; returns where they begin. */
  #pass(length: number): number {
    const begin = this.position;
    this.position += length;
    if (this.position > this.fileBytes) throw formatError(this.path, `${this.position} bytes`, `${this.fileBytes}`);
    if (this.position > this.bytes.byteLength) throw new MoreHeaderBytes(this.position);
    return begin;
  }

  uint32(): number {
    return this.#view.getUint32(this.#pass(4), true);
  }

  /** A 64-bit number; beyond 2⁵³ it is only good to be refused. */
  uint64(): number {
    return Number(this.#view.getBigUint64(this.#pass(8), true));
  }

  /** How many things follow, of which each takes `least` bytes. */
  count(least: number, what: string): number {
    const count = this.uint64();
    const room = Math.floor((this.fileBytes - this.position) / least);
    if (count > room) throw this.fail(`at most ${room} ${what} in what is left of the file`, `${count}`);
    return count;
  }

  string(): string {
    const length = this.count(1, 'bytes of a text');
    const begin = this.#pass(length);
    try {
      return this.#text.decode(this.bytes.subarray(begin, begin + length));
    } catch {
      throw this.fail('UTF-8', 'a text that is not');
    }
  }

  bool(): boolean {
    const byte = this.bytes[this.#pass(1)] as number;
    if (byte > 1) throw this.fail('0 or 1 for a truth value', `${byte}`);
    return byte === 1;
  }

  value(type: number, depth = 0): GgufValue {
    if (type === stringType) return this.string();
    if (type === boolType) return this.bool();
    if (type === arrayType) return this.#array(depth);
    const [value] = this.#numbers(type, 1) as ArrayLike<number | bigint> & Iterable<number | bigint>;
    return typeof value === 'bigint' && Number.isSafeInteger(Number(value)) ? Number(value) : (value as number);
  }

  #array(depth: number): GgufValue {
    if (depth === maxDepth) throw this.fail(`at most ${maxDepth} arrays within each other`, 'more');
    const type = this.uint32();
    if (type === stringType) return this.#list(8, () => this.string());
    if (type === boolType) return this.#list(1, () => this.bool());
    if (type === arrayType) return this.#list(12, () => this.#array(depth + 1));
    return this.#numbers(type, this.count(elementBytes(type), 'numbers'));
  }

  #list<T>(least: number, read: () => T): T[] {
    const count = this.count(least, 'elements');
    const items: T[] = [];
    while (items.length < count) items.push(read());
    return items;
  }

  #numbers(type: number, count: number): Exclude<GgufValue, number | bigint | boolean | string> {
    const array = typedArrays[type as keyof typeof typedArrays];
    if (!array) throw this.fail('a type of value from 0 to 12', `${type}`);
    const begin = this.#pass(count * array.BYTES_PER_ELEMENT);
    return new array(this.bytes.slice(begin, this.position).buffer);
  }
}

const elementBytes = (type: number): number => typedArrays[type as keyof typeof typedArrays]?.BYTES_PER_ELEMENT ?? 1;

/**
 * Parses and validates a header, so that no later read can leave the file.
 *
 * @param bytes - the file's beginning
 * @throws HadalError HADAL_ERR_FORMAT; {@link MoreHeaderBytes} when `bytes` end within the header
 */
export function parseHeader(bytes: Uint8Array, fileBytes: number, path: string): GgufHeader {
  const cursor = new Cursor(bytes, fileBytes, path);
  if (cursor.uint32() !== 0x46554747) throw formatError(path, "a file that starts with 'GGUF'", 'other bytes');
  const version = cursor.uint32();
  if (version !== 0 && (version & 0xffff) === 0)
    throw formatError(path, 'little-endian numbers', 'a big-endian file, which is not read');
  if (version !== 2 && version !== 3) throw formatError(path, 'version 2 or 3', `${version}`);
  const tensorCount = cursor.count(24, 'tensors');
  const metadata = readMetadata(cursor, cursor.count(13, 'metadata entries'));
  return { metadata, tensors: readTensors(cursor, tensorCount, alignmentOf(metadata)) };
}

function readMetadata(cursor: Cursor, count: number): GgufMetadata {
  const values = new Map<string, GgufValue>();
  for (let i = 0; i < count; i++) {
    const key = cursor.string();
    if (values.has(key)) throw cursor.fail('metadata keys that differ', `'${shortened(key)}' twice`);
    values.set(key, cursor.value(cursor.uint32()));
  }
  return new GgufMetadata(values, cursor.path);
}

function alignmentOf(metadata: GgufMetadata): number {
  const alignment = metadata.integer('general.alignment') ?? 32;
  if (alignment > 0 && alignment <= 2 ** 30 && (alignment & (alignment - 1)) === 0) return alignment;
  throw formatError(metadata.path, "a power of two as 'general.alignment'", `${alignment}`);
}

function readTensors(cursor: Cursor, count: number, alignment: number): Map<string, GgufTensor> {
  const tensors = new Map<string, GgufTensor>();
  for (let i = 0; i < count; i++) {
    const name = cursor.string();
    if (tensors.has(name)) throw cursor.fail('tensor names that differ', `'${shortened(name)}' twice`);
    tensors.set(name, readTensor(cursor, name, alignment));
  }
  const dataStart = Math.ceil(cursor.position / alignment) * alignment;
  let end = dataStart;
  let before = '';
  const inFileOrder = [...tensors].sort(([, a], [, b]) => a.byteOffset - b.byteOffset || a.byteLength - b.byteLength);
  for (const [name, tensor] of inFileOrder) {
    const begin = dataStart + tensor.byteOffset;
    if (begin < end && tensor.byteLength > 0)
      throw cursor.fail(`'${shortened(name)}' to start where '${shortened(before)}' ends or later`, `byte ${begin}`);
    end = Math.max(end, begin + tensor.byteLength);
    if (end > cursor.fileBytes)
      throw cursor.fail(`'${shortened(name)}' to end within ${cursor.fileBytes} bytes`, `an end at ${end}`);
    before = name;
    tensors.set(name, { ...tensor, byteOffset: begin });
  }
  return tensors;
}

/** A tensor's entry; `byteOffset` is still counted from where the data begin. */
function readTensor(cursor: Cursor, name: string, alignment: number): GgufTensor {
  const fail = (expected: string, got: string) => cursor.fail(`${expected} for '${shortened(name)}'`, got);
  const rank = cursor.uint32();
  if (rank > 4) throw fail('at most 4 dims', `${rank}`); // ggml's own limit
  const reversed = Array.from({ length: rank }, () => cursor.uint64());
  const shape = reversed.toReversed();
  const typeId = cursor.uint32();
  const byteOffset = cursor.uint64();
  const type = ggufTypes.get(typeId);
  if (!type) throw fail('a known element type', `number ${typeId}`);
  const rowLength = reversed[0] ?? 1;
  if (rowLength % type.elements !== 0)
    throw fail(`rows of whole blocks of ${type.elements} (${type.name})`, `${rowLength}`);
  const byteLength = (sizeOf(shape) / type.elements) * type.bytes;
  if (!reversed.every(Number.isSafeInteger) || !Number.isSafeInteger(byteLength))
    throw fail('a shape whose size is a whole number below 2^53', formatShape(shape));
  if (!Number.isSafeInteger(byteOffset) || byteOffset % alignment !== 0)
    throw fail(`an offset that is a multiple of ${alignment}`, `${byteOffset}`);
  return { type, shape, byteOffset, byteLength };
}

const shortened = (name: string): string => (name.length > 80 ? `${name.slice(0, 80)}…` : name);
