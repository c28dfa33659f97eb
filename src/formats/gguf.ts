// GGUF: a model's metadata and tensors in one file or in numbered parts, as llama.cpp writes them.
import { type FileHandle, open } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { HadalError } from '../core/errors.js';
import { withFileErrors } from './file-error.js';
import { dequantize } from './gguf-blocks.js';
import { formatError, type GgufHeader, type GgufTensor, MoreHeaderBytes, parseHeader } from './gguf-header.js';
import type { GgufMetadata } from './gguf-metadata.js';
import { readFully } from './read-fully.js';

const firstReadBytes = 1 << 20;
const maxHeaderBytes = 1 << 28; // vocabularies and merges of the largest models take some 10 MB

interface Part extends GgufHeader {
  readonly path: string;
  readonly handle: FileHandle;
}

/** An open GGUF file. Numbers are little-endian. */
export class GgufFile implements AsyncDisposable {
  readonly metadata: GgufMetadata;
  /** By the names of llama.cpp. */
  readonly tensors: ReadonlyMap<string, GgufTensor>;
  readonly #partOf = new Map<GgufTensor, Part>();
  readonly #parts: readonly Part[];
  #closed = false;

  private constructor(
    readonly path: string,
    parts: readonly Part[],
  ) {
    this.#parts = parts;
    this.metadata = (parts[0] as Part).metadata;
    const tensors = new Map<string, GgufTensor>();
    for (const part of parts) {
      for (const [name, tensor] of part.tensors) {
        if (tensors.has(name)) throw formatError(part.path, 'tensors that no other part has', `'${name}'`);
        tensors.set(name, tensor);
        this.#partOf.set(tensor, part);
      }
    }
    const expected = this.metadata.integer('split.tensors.count') ?? tensors.size;
    if (tensors.size !== expected) throw formatError(path, `${expected} tensors in all parts`, `${tensors.size}`);
    this.tensors = tensors;
  }

  /**
   * Opens a file (version 2 or 3, little-endian), or the first of several parts and the others beside it, and validates
   * the headers, so that later reads cannot leave the files.
   *
   * @throws HadalError HADAL_ERR_FORMAT naming file and tensor; HADAL_ERR_IO when it cannot be read
   */
  static async open(path: string): Promise<GgufFile> {
    const parts: Part[] = [];
    try {
      parts.push(await openPart(path));
      for (const other of otherParts(parts[0] as Part)) parts.push(await openPart(other));
      return new GgufFile(path, parts);
    } catch (error) {
      await Promise.all(parts.map(({ handle }) => handle.close()));
      throw error;
    }
  }

  /** Raw bytes of a tensor. @throws HadalError HADAL_ERR_FORMAT for an unknown name or a file cut short since */
  async read(name: string): Promise<Uint8Array> {
    const tensor = this.#tensor(name);
    const { handle, path } = this.#partOf.get(tensor) as Part;
    if (this.#closed) throw new HadalError('HADAL_ERR_DISPOSED', `[gguf] expected ${path} open, got a closed file`);
    const bytes = new Uint8Array(tensor.byteLength);
    const done = await withFileErrors(`read ${path}`, () => readFully(handle, bytes, tensor.byteOffset));
    if (done === bytes.byteLength) return bytes;
    const { byteOffset } = tensor;
    throw formatError(path, `${byteOffset + bytes.byteLength} bytes`, `an end after ${byteOffset + done}`);
  }

  /** Numbers of a tensor, row-major. @throws HadalError as {@link GgufFile.read}; HADAL_ERR_DTYPE for a type that is not read */
  async readFloats(name: string): Promise<Float32Array> {
    return dequantize(this.#tensor(name).type, await this.read(name), `'${name}' in ${this.path}`);
  }

  #tensor(name: string): GgufTensor {
    const tensor = this.tensors.get(name);
    if (!tensor) throw formatError(this.path, `a tensor '${name}'`, 'none of that name');
    return tensor;
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await Promise.all(this.#parts.map(({ handle }) => handle.close()));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

async function openPart(path: string): Promise<Part> {
  const handle = await withFileErrors(`read ${path}`, () => open(path, 'r'));
  try {
    return { path, handle, ...(await withFileErrors(`read ${path}`, () => readHeader(handle, path))) };
  } catch (error) {
    await handle.close();
    throw error;
  }
}

/** The header's length stands nowhere: more is read until it is all there. */
async function readHeader(handle: FileHandle, path: string): Promise<GgufHeader> {
  const info = await handle.stat();
  if (!info.isFile()) throw formatError(path, 'a regular file', 'something else');
  for (let length = firstReadBytes; ; ) {
    const bytes = new Uint8Array(Math.min(length, info.size));
    const done = await readFully(handle, bytes, 0);
    try {
      return parseHeader(bytes.subarray(0, done), info.size, path);
    } catch (error) {
      if (!(error instanceof MoreHeaderBytes)) throw error;
      if (done < bytes.byteLength) throw formatError(path, `${info.size} bytes`, `an end after ${done}`);
      if (error.byteLength > maxHeaderBytes)
        throw formatError(path, `a header of at most ${maxHeaderBytes} bytes`, 'a longer one');
      length = Math.min(maxHeaderBytes, Math.max(4 * length, error.byteLength));
    }
  }
}

/** Paths of the parts after the first, by llama.cpp's scheme `name-00001-of-00003.gguf`. */
function otherParts({ path, metadata }: Part): string[] {
  const count = metadata.integer('split.count') ?? 1;
  if (count <= 1) return [];
  const five = (n: number) => String(n).padStart(5, '0');
  const ending = `-00001-of-${five(count)}.gguf`;
  if (!path.endsWith(ending) || metadata.integer('split.no') !== 0)
    throw formatError(path, `the first of ${count} parts, whose name ends with ${ending}`, basename(path));
  const stem = basename(path).slice(0, -ending.length);
  return Array.from({ length: count - 1 }, (_, i) =>
    join(dirname(path), `${stem}-${five(i + 2)}-of-${five(count)}.gguf`),
  );
}
