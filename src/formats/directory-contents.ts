// What is to be written into a directory, as data: it can be made in one thread and written in another.
import { mkdir } from 'node:fs/promises';
import { basename, dirname, join, relative, sep } from 'node:path';
import { withAtomicDirectory, writeFileAtomic } from './atomic-file.js';
import { withFileErrors } from './file-error.js';
import { makeDirectory } from './make-directory.js';
import { type FileSum, WrittenSums, writeManifest } from './manifest.js';
import {
  dataOf,
  type TensorToWrite,
  type WriteOptions,
  writeSafetensors,
  writeTensorDirectory,
} from './safetensors-writer.js';

/** Files of a directory. */
export interface DirectoryContents {
  /** Texts by path. */
  readonly texts: Readonly<Record<string, string>>;
  /** Tensors by the path of their safetensors file, without its ending: `model`, `optimizer`, `ema/model`. */
  readonly tensors: Readonly<Record<string, readonly TensorToWrite[]>>;
}

/** The same contents in a folder of the directory. */
export function contentsIn(folder: string, { texts, tensors }: DirectoryContents): DirectoryContents {
  const moved = <T>(files: Readonly<Record<string, T>>) =>
    Object.fromEntries(Object.entries(files).map(([path, file]) => [`${folder}/${path}`, file]));
  return { texts: moved(texts), tensors: moved(tensors) };
}

/** The same contents with all numbers at hand, so that another thread can take them. */
export async function withData({ texts, tensors }: DirectoryContents): Promise<DirectoryContents> {
  const atHand = async (tensor: TensorToWrite): Promise<TensorToWrite> => ({ ...tensor, data: await dataOf(tensor) });
  const lists = Object.entries(tensors).map(
    async ([path, list]) => [path, await Promise.all(list.map(atHand))] as const,
  );
  return { texts, tensors: Object.fromEntries(await Promise.all(lists)) };
}

/**
 * Writes contents into a directory that exists.
 *
 * @param options.maxShardBytes - as of {@link writeTensorDirectory}
 * @throws HadalError as {@link writeTensorDirectory}
 */
export async function writeContents(
  dir: string,
  { texts, tensors }: DirectoryContents,
  { maxShardBytes, ...how }: WriteOptions & { maxShardBytes?: number | undefined } = {},
): Promise<void> {
  for (const [path, text] of Object.entries(texts)) await writeFileAtomic(join(dir, path), text);
  for (const [path, list] of Object.entries(tensors)) {
    const file = join(dir, path);
    await mkdir(dirname(file), { recursive: true });
    const limit = maxShardBytes === undefined ? {} : { maxShardBytes };
    await writeTensorDirectory(dirname(file), list, { ...how, ...limit, name: basename(file) });
  }
}

/** Files of tensors by their path without the ending. */
export type TensorFileContents = Readonly<Record<string, readonly TensorToWrite[]>>;

/**
 * Writes files of tensors into a directory that others write to as well.
 *
 * @returns sizes and checksums by path, endings included
 * @throws HadalError as {@link writeSafetensors}
 */
export async function writeTensorFiles(
  dir: string,
  files: TensorFileContents,
  { inThread }: Pick<WriteOptions, 'inThread'> = {},
): Promise<Record<string, FileSum>> {
  const sums = new WrittenSums();
  for (const [path, tensors] of Object.entries(files)) {
    const file = join(dir, `${path}.safetensors`);
    await withFileErrors(`write ${file}`, () => makeDirectory(dirname(file)));
    await writeSafetensors(file, tensors, { onWrite: sums.add, inThread });
  }
  return Object.fromEntries([...sums.all()].map(([path, sum]) => [relative(dir, path).split(sep).join('/'), sum]));
}

/**
 * Makes a directory of these contents and a manifest of their checksums. It appears whole or not at all, and must not
 * exist yet or be empty.
 *
 * @returns bytes of the files
 * @throws HadalError as {@link writeTensorDirectory}
 */
export async function saveContents(
  dir: string,
  contents: DirectoryContents,
  { inThread }: Pick<WriteOptions, 'inThread'> = {},
): Promise<number> {
  return withAtomicDirectory(dir, async (temporary) => {
    const sums = new WrittenSums();
    await writeContents(temporary, contents, { onWrite: sums.add, inThread });
    const { files } = await writeManifest(temporary, sums.all());
    return files.reduce((sum, { bytes }) => sum + bytes, 0);
  });
}
