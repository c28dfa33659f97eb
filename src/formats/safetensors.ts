import { type FileHandle, open, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { z } from 'zod';
import { HadalError } from '../core/errors.js';
import { parseJson } from '../core/json.js';
import { formatShape, type Shape, sizeOf } from '../core/shape.js';
import { fileError, withFileErrors } from './file-error.js';
import { readFully } from './read-fully.js';

/** Bytes an element takes, for each element type a safetensors file may hold. */
export const safetensorsDTypes = {
  F64: 8,
  I64: 8,
  U64: 8,
  F32: 4,
  I32: 4,
  U32: 4,
  BF16: 2,
  F16: 2,
  I16: 2,
  U16: 2,
  F8_E4M3: 1,
  F8_E5M2: 1,
  I8: 1,
  U8: 1,
  BOOL: 1,
} as const;

/** Name of an element type as safetensors writes it. */
export type SafetensorsDType = keyof typeof safetensorsDTypes;

/** Where a tensor lies. `byteOffset` counts from the start of its file. */
export interface TensorEntry {
  readonly dtype: SafetensorsDType;
  readonly shape: Shape;
  readonly byteOffset: number;
  readonly byteLength: number;
}

/** Tensors by name, read one at a time: a file or a directory of shards. */
export interface TensorFiles extends AsyncDisposable {
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  /**
   * Bytes of one tensor, little-endian, row-major.
   *
   * @param into - filled instead of a new array; exactly the tensor's byte length
   * @throws HadalError HADAL_ERR_FORMAT for an unknown name or a file cut short since it was opened
   */
  read(name: string, into?: Uint8Array): Promise<Uint8Array>;
  /** Some bytes of one tensor. @throws HadalError HADAL_ERR_FORMAT as of `read`, HADAL_ERR_SHAPE for bytes beyond its end */
  readRange(name: string, range: ByteRange): Promise<Uint8Array>;
  close(): Promise<void>;
}

/** Bytes of a tensor: `bytes` of them from the one number `first` on. */
export interface ByteRange {
  readonly first: number;
  readonly bytes: number;
}

/** One open safetensors file. */
export interface SafetensorsFile extends TensorFiles {
  readonly path: string;
  readonly metadata: Readonly<Record<string, string>>;
}

const maxHeaderBytes = 100_000_000; // the limit of the reference implementation

/**
 * Opens a safetensors file and validates all of its header, so that later reads cannot leave the file.
 *
 * @throws HadalError HADAL_ERR_FORMAT naming the file and the tensor; HADAL_ERR_IO when it cannot be read
 * @see https://huggingface.co/docs/safetensors#format
 */
export async function openSafetensors(path: string): Promise<SafetensorsFile> {
  const handle = await withFileErrors(`read ${path}`, () => open(path, 'r'));
  try {
    const { tensors, metadata } = await withFileErrors(`read ${path}`, () => readHeader(handle, path));
    return new OpenFile(path, handle, tensors, metadata);
  } catch (error) {
    await handle.close();
    throw error;
  }
}

class OpenFile implements SafetensorsFile {
  private closed = false;

  constructor(
    readonly path: string,
    private readonly handle: FileHandle,
    readonly tensors: ReadonlyMap<string, TensorEntry>,
    readonly metadata: Readonly<Record<string, string>>,
  ) {}

  async read(name: string, into?: Uint8Array): Promise<Uint8Array> {
    const entry = this.#entry(name);
    if (into !== undefined && into.byteLength !== entry.byteLength) {
      const expected = `${entry.byteLength} bytes to read '${name}' ${formatShape(entry.shape)} into`;
      throw new HadalError('HADAL_ERR_SHAPE', `[safetensors] expected ${expected}, got ${into.byteLength}`);
    }
    const bytes = into ?? new Uint8Array(entry.byteLength);
    await withFileErrors(`read ${this.path}`, () => read(this.handle, this.path, bytes, entry.byteOffset));
    return bytes;
  }

  async readRange(name: string, { first, bytes }: ByteRange): Promise<Uint8Array> {
    const { byteOffset, byteLength } = this.#entry(name);
    if (first < 0 || bytes < 0 || first + bytes > byteLength) {
      throw new HadalError(
        'HADAL_ERR_SHAPE',
        `[safetensors] expected bytes within the ${byteLength} of '${name}', got ${first} … ${first + bytes}`,
      );
    }
    const range = new Uint8Array(bytes);
    await withFileErrors(`read ${this.path}`, () => read(this.handle, this.path, range, byteOffset + first));
    return range;
  }

  #entry(name: string): TensorEntry {
    const entry = this.tensors.get(name);
    if (entry === undefined) throw formatError(this.path, `a tensor '${name}'`, 'none of that name');
    if (this.closed)
      throw new HadalError('HADAL_ERR_DISPOSED', `[safetensors] expected ${this.path} open, got a closed file`);
    return entry;
  }

  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    await this.handle.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

function formatError(path: string, expected: string, got: string): HadalError {
  return new HadalError(
    'HADAL_ERR_FORMAT',
    `[safetensors] expected ${expected} in ${path}, got ${got}; get the file anew`,
  );
}

async function read(handle: FileHandle, path: string, bytes: Uint8Array, position: number): Promise<void> {
  const done = await readFully(handle, bytes, position);
  if (done < bytes.byteLength)
    throw formatError(path, `${position + bytes.byteLength} bytes`, `an end after ${position + done}`);
}

interface Header {
  readonly tensors: Map<string, TensorEntry>;
  readonly metadata: Record<string, string>;
}

async function readHeader(handle: FileHandle, path: string): Promise<Header> {
  const info = await handle.stat();
  if (!info.isFile()) throw formatError(path, 'a regular file', 'something else');
  if (info.size < 8) throw formatError(path, 'at least 8 bytes', `${info.size}`);
  const prefix = new Uint8Array(8);
  await read(handle, path, prefix, 0);
  const headerBytes = new DataView(prefix.buffer).getBigUint64(0, true);
  const limit = Math.min(maxHeaderBytes, info.size - 8);
  if (headerBytes > BigInt(limit))
    throw formatError(path, `a header of at most ${limit} bytes`, `a length of ${headerBytes}`);
  const header = new Uint8Array(Number(headerBytes));
  await read(handle, path, header, 8);
  if (header[0] !== 0x7b) throw formatError(path, "a header that starts with '{'", 'other bytes');
  const json = parseJson(header, { part: 'safetensors', what: `the header of ${path}` });
  return parseHeader(json as Record<string, unknown>, path, 8 + header.byteLength, info.size);
}

function parseHeader(json: Record<string, unknown>, path: string, dataStart: number, fileBytes: number): Header {
  const tensors = new Map<string, TensorEntry>();
  let metadata: Record<string, string> = {};
  for (const [name, value] of Object.entries(json)) {
    if (name === '__metadata__') metadata = parseMetadata(value, path);
    else tensors.set(name, parseEntry(value, name, path, dataStart));
  }
  let end = dataStart;
  const inFileOrder = [...tensors].sort(([, a], [, b]) => a.byteOffset - b.byteOffset || a.byteLength - b.byteLength);
  for (const [name, { byteOffset, byteLength }] of inFileOrder) {
    if (byteOffset !== end)
      throw formatError(path, `'${name}' to start at byte ${end}, where the one before ends`, `${byteOffset}`);
    end += byteLength;
    if (end > fileBytes) throw formatError(path, `'${name}' to end within ${fileBytes} bytes`, `an end at ${end}`);
  }
  if (end !== fileBytes) throw formatError(path, `tensors up to the last byte, ${fileBytes}`, `an end at ${end}`);
  return { tensors, metadata };
}

function parseMetadata(value: unknown, path: string): Record<string, string> {
  const parsed = z.record(z.string(), z.string()).safeParse(value);
  if (!parsed.success) throw formatError(path, '__metadata__ of strings', 'something else');
  return parsed.data;
}

/** Checked by hand, not by a schema: a header may have 100,000 entries. */
function parseEntry(value: unknown, name: string, path: string, dataStart: number): TensorEntry {
  const fail = (expected: string, got: unknown): HadalError =>
    formatError(path, `${expected} for tensor '${name}'`, JSON.stringify(got)?.slice(0, 80) ?? 'nothing');
  if (typeof value !== 'object' || value === null) throw fail('{dtype, shape, data_offsets}', value);
  const { dtype, shape, data_offsets: offsets } = value as Record<string, unknown>;
  if (typeof dtype !== 'string' || !Object.hasOwn(safetensorsDTypes, dtype)) {
    throw fail(`a dtype of ${Object.keys(safetensorsDTypes).join(', ')}`, dtype);
  }
  if (!isNaturals(shape)) throw fail('a shape of natural numbers', shape);
  if (!isNaturals(offsets) || offsets.length !== 2) throw fail('two data_offsets', offsets);
  const [begin, end] = offsets as [number, number];
  const byteLength = sizeOf(shape) * safetensorsDTypes[dtype as SafetensorsDType];
  if (!Number.isSafeInteger(byteLength) || end - begin !== byteLength) {
    throw fail(`data_offsets that span the ${byteLength} bytes of ${dtype} ${formatShape(shape)}`, offsets);
  }
  return { dtype: dtype as SafetensorsDType, shape, byteOffset: dataStart + begin, byteLength };
}

function isNaturals(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((n) => Number.isSafeInteger(n) && n >= 0);
}

const shardIndexSchema = z.object({ weight_map: z.record(z.string(), z.string()) });

/**
 * Opens `<name>.safetensors`, or the shards that `<name>.safetensors.index.json` lists.
 *
 * @param options.name - `model` unless given
 * @throws HadalError HADAL_ERR_FORMAT for damaged files, missing tensors, or shard names that leave the directory
 */
export async function openTensorDirectory(dir: string, options: { name?: string } = {}): Promise<TensorFiles> {
  const single = join(dir, `${options.name ?? 'model'}.safetensors`);
  if (await exists(single)) return openSafetensors(single);
  const indexPath = `${single}.index.json`;
  if (!(await exists(indexPath))) {
    const expected = `${basename(single)} or ${basename(indexPath)} in ${dir}`;
    throw new HadalError(
      'HADAL_ERR_FORMAT',
      `[safetensors] expected ${expected}, got neither; give the directory of a model`,
    );
  }
  const fileOfTensor = await readShardIndex(indexPath);
  const files = new Map<string, SafetensorsFile>();
  const closeAll = async (): Promise<void> => void (await Promise.all([...files.values()].map((file) => file.close())));
  try {
    for (const file of new Set(fileOfTensor.values())) files.set(file, await openSafetensors(join(dir, file)));
    return new OpenDirectory(indexPath, fileOfTensor, files, closeAll);
  } catch (error) {
    await closeAll();
    throw error;
  }
}

class OpenDirectory implements TensorFiles {
  readonly tensors = new Map<string, TensorEntry>();

  constructor(
    private readonly indexPath: string,
    private readonly fileOfTensor: ReadonlyMap<string, string>,
    private readonly files: ReadonlyMap<string, SafetensorsFile>,
    readonly close: () => Promise<void>,
  ) {
    for (const [name, file] of fileOfTensor) {
      const entry = files.get(file)?.tensors.get(name);
      if (entry === undefined) throw formatError(indexPath, `'${name}' in ${file}`, 'a shard without it');
      this.tensors.set(name, entry);
    }
  }

  async read(name: string, into?: Uint8Array): Promise<Uint8Array> {
    return this.#fileOf(name).read(name, into);
  }

  async readRange(name: string, range: ByteRange): Promise<Uint8Array> {
    return this.#fileOf(name).readRange(name, range);
  }

  #fileOf(name: string): SafetensorsFile {
    const file = this.files.get(this.fileOfTensor.get(name) ?? '');
    if (file === undefined) throw formatError(this.indexPath, `a tensor '${name}'`, 'none of that name');
    return file;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

async function readShardIndex(path: string): Promise<Map<string, string>> {
  const handle = await withFileErrors(`read ${path}`, () => open(path, 'r'));
  const text = await withFileErrors(`read ${path}`, () => handle.readFile()).finally(() => handle.close());
  const parsed = shardIndexSchema.safeParse(parseJson(text, { part: 'safetensors', what: path }));
  if (!parsed.success) throw formatError(path, 'a weight_map of tensor names to files', 'something else');
  const fileOfTensor = new Map(Object.entries(parsed.data.weight_map));
  for (const file of fileOfTensor.values()) {
    if (!/^[^/\\\0]+\.safetensors$/.test(file))
      throw formatError(path, 'names of .safetensors files beside it', `'${file}'`);
  }
  return fileOfTensor;
}

async function exists(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false;
    throw fileError(error, `read ${path}`);
  }
}
