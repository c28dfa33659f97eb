import { createHash, type Hash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { readdir, readFile, stat } from 'node:fs/promises';
import { join, relative, sep } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { z } from 'zod';
import { HadalError } from '../core/errors.js';
import { parseJson } from '../core/json.js';
import { writeFileAtomic } from './atomic-file.js';
import { withFileErrors } from './file-error.js';

const manifestName = 'manifest.json';

const manifestSchema = z.object({
  files: z.array(
    z.object({
      path: z.string().refine((path) => !path.split(/[/\\]/).includes('..') && !/^([/\\]|[A-Za-z]:)/.test(path)),
      bytes: z.number().int().nonnegative(),
      sha256: z.string().regex(/^[0-9a-f]{64}$/),
    }),
  ),
});

/** Sizes and checksums of a directory's files; paths are relative, with forward slashes. */
export type Manifest = z.infer<typeof manifestSchema>;

/** SHA-256 of a file, hexadecimal. @throws HadalError HADAL_ERR_IO */
export async function sha256OfFile(path: string): Promise<string> {
  const hash = createHash('sha256');
  await withFileErrors(`read ${path}`, () => pipeline(createReadStream(path, { highWaterMark: 1 << 20 }), hash));
  return hash.digest('hex');
}

/** Size and checksum of a file. */
export interface FileSum {
  readonly bytes: number;
  readonly sha256: string;
}

async function sumOfFile(path: string): Promise<FileSum> {
  const { size } = await withFileErrors(`read ${path}`, () => stat(path));
  return { bytes: size, sha256: await sha256OfFile(path) };
}

/** Checksums of files, computed while these are written: what was hashed is what was meant to be in them. */
export class WrittenSums {
  readonly #sums = new Map<string, { bytes: number; hash: Hash }>();

  /** To be told what is written to which file, in order. */
  readonly add = (path: string, data: Uint8Array): void => {
    const sum = this.#sums.get(path) ?? { bytes: 0, hash: createHash('sha256') };
    sum.bytes += data.byteLength;
    sum.hash.update(data);
    this.#sums.set(path, sum);
  };

  /** By the path of each file that was told of. */
  all(): Map<string, FileSum> {
    return new Map(
      [...this.#sums].map(([path, { bytes, hash }]) => [path, { bytes, sha256: hash.copy().digest('hex') }]),
    );
  }
}

/**
 * Writes `manifest.json` over all files below `dir`, itself excluded.
 *
 * @param written - sums of files that need not be read for it, by path
 * @throws HadalError HADAL_ERR_IO
 */
export async function writeManifest(dir: string, written: ReadonlyMap<string, FileSum> = new Map()): Promise<Manifest> {
  const entries = await withFileErrors(`read ${dir}`, () => readdir(dir, { recursive: true, withFileTypes: true }));
  const paths = entries
    .filter((entry) => entry.isFile())
    .map((entry) => relative(dir, join(entry.parentPath, entry.name)))
    .filter((path) => path !== manifestName)
    .sort();
  const files: Manifest['files'] = [];
  for (const path of paths) {
    const full = join(dir, path);
    files.push({ path: path.split(sep).join('/'), ...(written.get(full) ?? (await sumOfFile(full))) });
  }
  await writeFileAtomic(join(dir, manifestName), `${JSON.stringify({ files }, null, 2)}\n`);
  return { files };
}

/**
 * Checks `dir` against its `manifest.json`.
 *
 * @param options.checksums - false compares sizes alone, which costs no reading
 * @param options.share - reads each n-th file alone, the others are for others
 * @throws HadalError HADAL_ERR_CHECKPOINT naming the first file that is missing or differs
 */
export async function verifyManifest(
  dir: string,
  {
    checksums = true,
    share = { rank: 0, size: 1 },
  }: { checksums?: boolean; share?: { rank: number; size: number } } = {},
): Promise<Manifest> {
  const damaged = (expected: string, got: string): HadalError =>
    new HadalError(
      'HADAL_ERR_CHECKPOINT',
      `[manifest] expected ${expected} in ${dir}, got ${got}; use another checkpoint or copy`,
    );
  const text = await readFile(join(dir, manifestName)).catch((error: NodeJS.ErrnoException) => {
    throw damaged(manifestName, error.code ?? String(error));
  });
  const json = parseJson(text, { part: 'manifest', what: join(dir, manifestName), code: 'HADAL_ERR_CHECKPOINT' });
  const parsed = manifestSchema.safeParse(json);
  if (!parsed.success) throw damaged('a manifest {files: [{path, bytes, sha256}]}', 'something else');
  for (const [i, { path, bytes, sha256 }] of parsed.data.files.entries()) {
    const full = join(dir, path);
    const size = await stat(full).then(
      (info) => info.size,
      () => undefined,
    );
    if (size !== bytes)
      throw damaged(`${path} of ${bytes} bytes`, size === undefined ? 'no such file' : `${size} bytes`);
    if (checksums && i % share.size === share.rank && (await sha256OfFile(full)) !== sha256)
      throw damaged(`${path} unchanged`, 'another checksum');
  }
  return parsed.data;
}
