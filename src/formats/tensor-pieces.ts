// Tensors that lie in the files of several processes, a piece in each: found, checked and read by ranges of elements.
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { HadalError } from '../core/errors.js';
import { formatShape, type Shape, sameShape, sizeOf } from '../core/shape.js';
import { withFileErrors } from './file-error.js';
import { piecesIn } from './piece-metadata.js';
import { openSafetensors, type SafetensorsDType, type SafetensorsFile, safetensorsDTypes } from './safetensors.js';

/** Elements of a tensor, row-major: `count` of them from the one number `first` on. */
export interface ElementRange {
  readonly first: number;
  readonly count: number;
}

/** Part of a tensor that lies in a file. */
interface Piece extends ElementRange {
  file: SafetensorsFile;
}

/** A tensor, wherever its pieces lie. */
export interface TensorOfPieces {
  readonly dtype: SafetensorsDType;
  /** Of the whole tensor. */
  readonly shape: Shape;
  /** Of a tensor that each process has one of: how many there are; 0 of all others. */
  readonly owners: number;
}

/** The tensor of one name, and where it is; those of one's own by rank. */
interface Placed {
  dtype: SafetensorsDType;
  shape: Shape;
  pieces: Piece[];
  owned: Map<number, Piece[]>;
}

/** What is common to two ranges; a count of 0 where nothing is. */
export function overlap(a: ElementRange, b: ElementRange): ElementRange {
  const first = Math.max(a.first, b.first);
  return { first, count: Math.max(0, Math.min(a.first + a.count, b.first + b.count) - first) };
}

/** Open files of pieces. */
export class TensorPieces implements AsyncDisposable {
  readonly #placed = new Map<string, Placed>();

  private constructor(
    private readonly path: string,
    private readonly files: readonly SafetensorsFile[],
  ) {
    for (const file of files) this.#place(file);
    for (const [name, placed] of this.#placed) this.#check(name, placed);
  }

  /**
   * Opens `<name>.safetensors`, or `<name>-00001-of-…` and those that belong to it: of several processes, or too large for
   * one file.
   *
   * @throws HadalError HADAL_ERR_CHECKPOINT where a file is missing, or the pieces of a tensor are not each number once;
   *   HADAL_ERR_FORMAT for damaged files, HADAL_ERR_IO
   */
  static async open(dir: string, name: string): Promise<TensorPieces> {
    const found = await withFileErrors(`read ${dir}`, () => readdir(dir));
    const numbered = new RegExp(`^${name}-\\d{5,}-of-(\\d{5,})\\.safetensors$`);
    const names = found.filter((file) => file === `${name}.safetensors` || numbered.test(file)).sort();
    const expected = Number(numbered.exec(names[0] ?? '')?.[1] ?? 1);
    if (names.length !== expected) throw refusal(`${expected} files '${name}' in ${dir}`, `${names.length}`);
    const files: SafetensorsFile[] = [];
    try {
      for (const file of names) files.push(await openSafetensors(join(dir, file)));
      return new TensorPieces(join(dir, name), files);
    } catch (error) {
      await Promise.all(files.map((file) => file.close()));
      throw error;
    }
  }

  #place(file: SafetensorsFile): void {
    const noted = piecesIn(file.path, file.metadata);
    for (const [name, { dtype, shape: here }] of file.tensors) {
      const { shape, first, rank } = noted.get(name) ?? { shape: here, first: 0 };
      const placed = this.#placed.get(name) ?? { dtype, shape, pieces: [], owned: new Map<number, Piece[]>() };
      if (dtype !== placed.dtype || !sameShape(shape, placed.shape)) {
        throw refusal(
          `'${name}' as ${placed.dtype} ${formatShape(placed.shape)} in ${file.path}`,
          `${dtype} ${formatShape(shape)}`,
        );
      }
      const piece = { file, first, count: sizeOf(here) };
      if (rank === undefined) placed.pieces.push(piece);
      else placed.owned.set(rank, [...(placed.owned.get(rank) ?? []), piece]);
      this.#placed.set(name, placed);
    }
  }

  /** Every number exactly once. */
  #check(name: string, { shape, pieces, owned }: Placed): void {
    const sets = owned.size > 0 ? Array.from({ length: owned.size }, (_, rank) => owned.get(rank) ?? []) : [pieces];
    if (owned.size > 0 && pieces.length > 0)
      throw refusal(`one of each process of '${name}' in ${this.path}`, 'others');
    for (const [i, set] of sets.entries()) {
      let end = 0;
      for (const { first, count } of set.sort((a, b) => a.first - b.first || a.count - b.count)) {
        if (first !== end) {
          const got = first < end ? `that of ${first} twice` : `none of ${end} … ${first}`;
          throw refusal(`each number of '${name}' once in ${this.path}`, got);
        }
        end += count;
      }
      if (end === sizeOf(shape)) continue;
      const whose = owned.size > 0 ? ` of rank ${i}` : '';
      throw refusal(`${sizeOf(shape)} numbers of '${name}'${whose} in ${this.path}`, `${end}`);
    }
  }

  /** The tensors that there are. */
  get tensors(): Map<string, TensorOfPieces> {
    return new Map(
      [...this.#placed].map(([name, { dtype, shape, owned }]) => [name, { dtype, shape, owners: owned.size }]),
    );
  }

  /**
   * Some numbers of a tensor.
   *
   * @param rank - whose, of a tensor that each process has one of
   * @throws HadalError HADAL_ERR_CHECKPOINT where there is no such tensor, or it ends before
   */
  async read(name: string, { first, count }: ElementRange, rank?: number): Promise<Uint8Array> {
    const placed = this.#placed.get(name);
    const pieces = rank === undefined ? placed?.pieces : placed?.owned.get(rank);
    if (!placed || !pieces?.length || first < 0 || first + count > sizeOf(placed.shape)) {
      throw refusal(`numbers ${first} … ${first + count} of '${name}' in ${this.path}`, 'none such');
    }
    const width = safetensorsDTypes[placed.dtype];
    const parts = await Promise.all(
      pieces.map((piece) => {
        const here = overlap({ first, count }, piece);
        return here.count === 0
          ? new Uint8Array()
          : piece.file.readRange(name, { first: (here.first - piece.first) * width, bytes: here.count * width });
      }),
    );
    const whole = parts.find((part) => part.byteLength === count * width);
    return whole ?? Buffer.concat(parts);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.files.map((file) => file.close()));
  }
}

function refusal(expected: string, got: string): HadalError {
  return new HadalError('HADAL_ERR_CHECKPOINT', `[pieces] expected ${expected}, got ${got}; use another checkpoint`);
}
