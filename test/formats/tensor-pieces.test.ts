// Tensors in pieces: whatever way they were divided, every range is read back, and no other division passes.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { openSafetensors } from '../../src/formats/safetensors.js';
import {
  numberedFile,
  type TensorToWrite,
  writeSafetensors,
  writeTensorDirectory,
} from '../../src/formats/safetensors-writer.js';
import { overlap, TensorPieces } from '../../src/formats/tensor-pieces.js';

const folder = mkdtempSync(join(tmpdir(), 'hadal-pieces-'));
afterAll(() => rmSync(folder, { recursive: true }));
const newFolder = () => mkdtempSync(join(folder, 'case-'));

const bytesOf = (numbers: readonly number[]) => new Uint8Array(Float32Array.from(numbers).buffer);
const floatsOf = (bytes: Uint8Array) => [...new Float32Array(Uint8Array.from(bytes).buffer)];

/** A file for each list of tensors. */
async function written(files: readonly (readonly TensorToWrite[])[]): Promise<string> {
  const dir = newFolder();
  for (const [i, tensors] of files.entries())
    await writeSafetensors(join(dir, `${numberedFile('state', i, files.length)}.safetensors`), tensors);
  return dir;
}

const piece = (
  name: string,
  shape: number[],
  first: number,
  numbers: readonly number[],
  rank?: number,
): TensorToWrite => ({
  ...{ name, dtype: 'F32', shape: [numbers.length], data: bytesOf(numbers) },
  piece: { shape, first, rank },
});

describe('pieces', () => {
  it('of any division are read as if they were one', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 5 }),
        fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 4 }),
        fc.array(fc.nat({ max: 1000 }), { minLength: 1, maxLength: 8 }),
        async (size, sizes, at) => {
          const files: TensorToWrite[][] = Array.from({ length: size }, () => []);
          const numbers = (n: number) => Array.from({ length: n }, (_, i) => i + 0.5);
          for (const [t, n] of sizes.entries()) {
            // Cut anywhere; each piece to a file of its own, some of them empty.
            const cuts = Array.from({ length: size - 1 }, (_, i) => (at[i % at.length] as number) % (n + 1)).sort(
              (a, b) => a - b,
            );
            for (const [i, end] of [...cuts, n].entries()) {
              const begin = cuts[i - 1] ?? 0;
              const own = numbers(n).slice(begin, end);
              if (own.length > 0) files[(i + t) % size]?.push(piece(`tensor ${t}`, [n, 1], begin, own));
            }
          }
          await using pieces = await TensorPieces.open(await written(files), 'state');
          for (const [t, n] of sizes.entries()) {
            expect(pieces.tensors.get(`tensor ${t}`)).toEqual({ dtype: 'F32', shape: [n, 1], owners: 0 });
            const first = (at[0] as number) % n;
            const count = ((at.at(-1) as number) % (n - first)) + 1;
            expect(floatsOf(await pieces.read(`tensor ${t}`, { first, count }))).toEqual(
              numbers(n).slice(first, first + count),
            );
          }
        },
      ),
      { numRuns: 25 },
    );
  });

  it('of which each process has its own are told apart', async () => {
    const dir = await written([0, 1, 2].map((rank) => [piece('left', [2, 2], 0, [rank, 1, 2, 3], rank)]));
    await using pieces = await TensorPieces.open(dir, 'state');
    expect(pieces.tensors.get('left')?.owners).toBe(3);
    for (const rank of [0, 1, 2])
      expect(floatsOf(await pieces.read('left', { first: 0, count: 2 }, rank))).toEqual([rank, 1]);
    await expect(pieces.read('left', { first: 0, count: 2 })).rejects.toMatchObject({ code: 'HADAL_ERR_CHECKPOINT' });
  });

  it.each<[string, TensorToWrite[][], RegExp]>([
    [
      'twice',
      [[piece('a', [4], 0, [1, 2, 3])], [piece('a', [4], 2, [3, 4])]],
      /each number of 'a' once.*that of 2 twice/,
    ],
    ['nowhere', [[piece('a', [4], 0, [1])], [piece('a', [4], 2, [3, 4])]], /none of 1 … 2/],
    ['not at the end', [[piece('a', [4], 0, [1])], [piece('a', [4], 1, [2, 3])]], /4 numbers of 'a'.*got 3/],
    ['of another shape', [[piece('a', [4], 0, [1])], [piece('a', [5], 1, [2, 3, 4])]], /'a' as F32 \[4\].*F32 \[5\]/],
    [
      'of one process alone',
      [[piece('a', [2], 0, [1, 2], 0)], [piece('a', [2], 0, [1, 2], 2)]],
      /2 numbers of 'a' of rank 1.*got 0/,
    ],
  ])('that lie %s are refused', async (_, files, message) => {
    const dir = await written(files);
    await expect(TensorPieces.open(dir, 'state')).rejects.toMatchObject({
      code: 'HADAL_ERR_CHECKPOINT',
      message: expect.stringMatching(message),
    });
  });

  it('of which a file is missing are refused', async () => {
    const dir = await written([[piece('a', [2], 0, [1])], [piece('a', [2], 1, [2])]]);
    rmSync(join(dir, 'state-00002-of-00002.safetensors'));
    await expect(TensorPieces.open(dir, 'state')).rejects.toMatchObject({
      message: expect.stringMatching(/expected 2 files 'state'.*got 1/),
    });
  });

  it('may be whole tensors, in one file or in several', async () => {
    const whole = ['a', 'b'].map((name) => ({ name, dtype: 'F32', shape: [2], data: bytesOf([1, 2]) }) as const);
    for (const maxShardBytes of [1e9, 8]) {
      const dir = newFolder();
      await writeTensorDirectory(dir, whole, { name: 'state', maxShardBytes });
      await using pieces = await TensorPieces.open(dir, 'state');
      expect(floatsOf(await pieces.read('b', { first: 1, count: 1 }))).toEqual([2]);
    }
  });

  it('are noted in the metadata of files, which say nothing of whole tensors', async () => {
    const dir = await written([[piece('a', [2], 0, [1, 2])]]);
    await using file = await openSafetensors(join(dir, 'state-00001-of-00001.safetensors'));
    expect(file.metadata).toEqual({ format: 'pt', 'hadal.pieces': '{"a":{"shape":[2],"first":0}}' });
  });

  it('have in common what is in both', () => {
    expect(overlap({ first: 2, count: 5 }, { first: 4, count: 9 })).toEqual({ first: 4, count: 3 });
    expect(overlap({ first: 2, count: 2 }, { first: 4, count: 9 }).count).toBe(0);
  });
});
