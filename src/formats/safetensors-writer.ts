import { writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { HadalError } from '../core/errors.js';
import { formatShape, type Shape, sizeOf } from '../core/shape.js';
import { withAtomicFile, writeFileAtomic } from './atomic-file.js';
import { metadataOfPieces, type PieceOf } from './piece-metadata.js';
import { type SafetensorsDType, safetensorsDTypes } from './safetensors.js';

/** A tensor to write. A function as `data` is called when its turn comes, so that not all need to be held at once. */
export interface TensorToWrite {
  readonly name: string;
  readonly dtype: SafetensorsDType;
  readonly shape: Shape;
  /** Little-endian, row-major. */
  readonly data: Uint8Array | (() => Promise<Uint8Array>);
  /** Which part of which tensor it is, where it is not all of it: noted in the file. */
  readonly piece?: PieceOf | undefined;
}

/** How files are written. */
export interface WriteOptions {
  /** Told what is written to which file, in order. */
  onWrite?: ((path: string, data: Uint8Array) => void) | undefined;
  /** Writes in the calling thread instead of Node's pool: for a thread that has a priority of its own. */
  inThread?: boolean | undefined;
}

/** Written at a time: a little, since whoever listens to writing does so in between. */
const chunkBytes = 1 << 22;

/** A tensor's numbers, read now where they are not at hand. */
export const dataOf = async ({ data }: TensorToWrite): Promise<Uint8Array> =>
  typeof data === 'function' ? data() : data;

/** Bytes of its numbers. */
export const byteLengthOf = ({ dtype, shape }: Pick<TensorToWrite, 'dtype' | 'shape'>): number =>
  sizeOf(shape) * safetensorsDTypes[dtype];

/**
 * Writes one safetensors file, whole or not at all. Tensors lie in the reference writer's order (widest element type
 * first, then by name), which keeps each aligned to its element.
 *
 * @throws HadalError HADAL_ERR_SHAPE when data and shape disagree or a name comes twice; HADAL_ERR_IO
 */
export async function writeSafetensors(
  path: string,
  tensors: Iterable<TensorToWrite>,
  { onWrite, inThread = false }: WriteOptions = {},
): Promise<void> {
  const sorted = [...tensors].sort(
    (a, b) => safetensorsDTypes[b.dtype] - safetensorsDTypes[a.dtype] || (a.name < b.name ? -1 : 1),
  );
  const header = encodeHeader(sorted, path);
  await withAtomicFile(path, async (handle) => {
    const write = async (data: Uint8Array): Promise<void> => {
      for (let at = 0; at < data.byteLength; at += chunkBytes) {
        const chunk = data.subarray(at, at + chunkBytes);
        onWrite?.(path, chunk);
        if (inThread) writeFileSync(handle.fd, chunk);
        else await handle.writeFile(chunk);
      }
    };
    await write(header);
    for (const tensor of sorted) {
      const data = await dataOf(tensor);
      if (data.byteLength !== byteLengthOf(tensor)) {
        const expected = `${byteLengthOf(tensor)} bytes for '${tensor.name}' ${tensor.dtype} ${formatShape(tensor.shape)}`;
        throw new HadalError('HADAL_ERR_SHAPE', `[safetensors] expected ${expected}, got ${data.byteLength}`);
      }
      await write(data);
    }
  });
}

function encodeHeader(tensors: readonly TensorToWrite[], path: string): Uint8Array {
  const pieces = metadataOfPieces(tensors.flatMap(({ name, piece }) => (piece ? [[name, piece] as const] : [])));
  // `transformers` asks for the format.
  const entries = new Map<string, unknown>([['__metadata__', { format: 'pt', ...pieces }]]);
  let end = 0;
  for (const tensor of tensors) {
    if (entries.has(tensor.name)) {
      throw new HadalError(
        'HADAL_ERR_SHAPE',
        `[safetensors] expected each name once in ${path}, got '${tensor.name}' twice`,
      );
    }
    const begin = end;
    end += byteLengthOf(tensor);
    entries.set(tensor.name, { dtype: tensor.dtype, shape: tensor.shape, data_offsets: [begin, end] });
  }
  // Joined by hand: a plain object would reorder names that look like numbers and lose '__proto__'.
  const json = `{${[...entries].map(([name, entry]) => `${JSON.stringify(name)}:${JSON.stringify(entry)}`).join(',')}}`;
  const text = new TextEncoder().encode(json);
  const header = new Uint8Array(8 + Math.ceil(text.byteLength / 8) * 8).fill(0x20);
  new DataView(header.buffer).setBigUint64(0, BigInt(header.byteLength - 8), true);
  header.set(text, 8);
  return header;
}

/**
 * Writes tensors into an existing directory as Hugging Face lays them out: one `<name>.safetensors`, or shards with
 * `<name>.safetensors.index.json`. Each file appears whole or not at all; for the directory as one, call this within
 * `withAtomicDirectory`.
 *
 * @param options.maxShardBytes - 5 GB unless given; a larger tensor gets a shard of its own
 * @param options.name - `model` unless given
 * @throws HadalError as {@link writeSafetensors}
 */
export async function writeTensorDirectory(
  dir: string,
  tensors: Iterable<TensorToWrite>,
  options: WriteOptions & { maxShardBytes?: number; name?: string } = {},
): Promise<void> {
  const { maxShardBytes = defaultShardBytes, name = 'model', ...how } = options;
  const { files, index } = shardsOf(tensors, name, maxShardBytes);
  for (const [file, shard] of files) await writeSafetensors(join(dir, `${file}.safetensors`), shard, how);
  if (index) await writeFileAtomic(join(dir, `${name}.safetensors.index.json`), index);
}

/** A file's limit unless another is given, that of Hugging Face. */
export const defaultShardBytes = 5e9;

/** `<name>-00001-of-00002`, counted from 0 here. */
export const numberedFile = (name: string, i: number, of: number): string =>
  `${name}-${[i + 1, of].map((n) => String(n).padStart(5, '0')).join('-of-')}`;

/** Files by their path without the ending, and the text of `<name>.safetensors.index.json` where they are several. */
export interface Shards {
  files: Map<string, readonly TensorToWrite[]>;
  index: string | null;
}

/** How tensors are laid out as Hugging Face does. @param name - path of the only file, without its ending */
export function shardsOf(tensors: Iterable<TensorToWrite>, name: string, maxShardBytes: number): Shards {
  const shards = splitIntoShards(tensors, maxShardBytes);
  if (shards.length <= 1) return { files: new Map([[name, shards[0] ?? []]]), index: null };
  const files = new Map(shards.map((shard, i) => [numberedFile(name, i, shards.length), shard]));
  const total = shards.flat().reduce((sum, tensor) => sum + byteLengthOf(tensor), 0);
  const weightMap = [...files].flatMap(([file, shard]) =>
    shard.map((tensor) => [tensor.name, `${basename(file)}.safetensors`] as const),
  );
  const index = { metadata: { total_size: total }, weight_map: Object.fromEntries(weightMap) };
  return { files, index: `${JSON.stringify(index, null, 2)}\n` };
}

function splitIntoShards(tensors: Iterable<TensorToWrite>, maxShardBytes: number): TensorToWrite[][] {
  const shards: TensorToWrite[][] = [];
  let shardBytes = Number.POSITIVE_INFINITY;
  for (const tensor of tensors) {
    const bytes = byteLengthOf(tensor);
    if (shardBytes + bytes > maxShardBytes) {
      shards.push([]);
      shardBytes = 0;
    }
    shards.at(-1)?.push(tensor);
    shardBytes += bytes;
  }
  return shards;
}
