import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { mkdtemp, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { HadalError } from '../../src/core/errors.js';
import { GgufFile } from '../../src/formats/gguf.js';
import { concat, type Entry, entry, gguf, type TensorInfo, text, u32, u64 } from './write-gguf.js';

let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'hadal-gguf-'));
});
afterAll(() => rm(dir, { recursive: true }));

const fromPython = fileURLToPath(new URL('./gguf-goldens.gguf', import.meta.url));
const goldens = JSON.parse(readFileSync(new URL('./gguf-goldens.json', import.meta.url), 'utf8')) as Record<
  string,
  { shape: number[]; sha256: string; first: number[] }
>;

async function opening(bytes: Uint8Array, name = 'bad.gguf'): Promise<void> {
  const path = join(dir, name);
  await writeFile(path, bytes);
  await using opened = await GgufFile.open(path);
  for (const tensor of opened.tensors.keys()) await opened.readFloats(tensor);
}

const f32 = (name: string, dims: TensorInfo['dims'], offset?: bigint): TensorInfo => ({
  name,
  dims,
  type: 0,
  data: new Uint8Array(32),
  ...(offset === undefined ? {} : { offset }),
});

describe('GgufFile', () => {
  it('reads every kind of metadata that the Python package writes', async () => {
    await using opened = await GgufFile.open(fromPython);
    const { values } = opened.metadata;
    const expected: Record<string, unknown> = {
      'general.architecture': 'llama',
      't.u8': 200,
      't.i8': -100,
      't.u16': 60000,
      't.i16': -30000,
      't.u32': 4000000000,
      't.i32': -2000000000,
      't.f32': Math.fround(0.1),
      't.u64': 2n ** 64n - 1n,
      't.i64': -(2 ** 40),
      't.f64': 0.1,
      't.bool': true,
      't.string': 'héllo ▁世界',
      't.strings': ['a', '', 'ü'],
      't.floats': Float32Array.of(0.5, -1.5),
      't.ints': Int32Array.of(1, -2, 3),
      't.bools': [true, false],
    };
    for (const [key, value] of Object.entries(expected)) expect(values.get(key), key).toEqual(value);
  });

  it.each(Object.keys(goldens))('dequantizes %s to the bits of the Python package', async (type) => {
    await using opened = await GgufFile.open(fromPython);
    const { shape, sha256, first } = goldens[type] as (typeof goldens)[string];
    const numbers = await opened.readFloats(type);
    expect(opened.tensors.get(type)).toMatchObject({ shape, type: { name: type } });
    expect([...numbers.subarray(0, 4)]).toEqual(first);
    expect(createHash('sha256').update(numbers).digest('hex')).toBe(sha256);
  });

  it('reads headers longer than the first read', async () => {
    const path = join(dir, 'long.gguf');
    const tokens = Array.from({ length: 60_000 }, (_, i) => `a token of some length: ${i}`);
    await writeFile(path, gguf([entry.texts('tokens', tokens)], [f32('a', [8])]));
    await using opened = await GgufFile.open(path);
    expect(opened.metadata.texts('tokens')).toEqual(tokens);
    expect([...(await opened.readFloats('a'))]).toEqual(Array(8).fill(0));
  });

  it('reads version 2, other alignments and arrays of arrays', async () => {
    const path = join(dir, 'two.gguf');
    const nested: Entry = ['n', 9, concat(u32(9), u64(2), u32(0), u64(1), Uint8Array.of(7), u32(8), u64(1), text('x'))];
    const entries = [entry.u32('general.alignment', 64), nested];
    await writeFile(path, gguf(entries, [f32('a', [4, 2])], { version: 2, alignment: 64 }));
    await using opened = await GgufFile.open(path);
    expect(opened.metadata.values.get('n')).toEqual([Uint8Array.of(7), ['x']]);
    expect(opened.tensors.get('a')).toMatchObject({ shape: [2, 4], byteLength: 32 });
    expect((opened.tensors.get('a')?.byteOffset ?? 1) % 64).toBe(0);
  });

  const many = 2n ** 62n;
  const lies: [string, Uint8Array, RegExp][] = [
    ['an empty file', new Uint8Array(0), /4 bytes/],
    ['another file', gguf([]).fill(0, 0, 1), /starts with 'GGUF'/],
    ['a big-endian file', gguf([], [], { version: 0x03000000 }), /big-endian/],
    ['version 1', gguf([], [], { version: 1 }), /version 2 or 3.*got 1/],
    ['version 4', gguf([], [], { version: 4 }), /version 2 or 3/],
    ['endless tensors', gguf([], [], { counts: [many, 0] }), /at most 0 tensors/],
    ['endless metadata', gguf([], [], { counts: [0, many] }), /at most 0 metadata/],
    ['an endless text', gguf([['a', 8, u64(many)]]), /at most 0 bytes of a text/],
    ['an endless array', gguf([['a', 9, concat(u32(0), u64(many))]]), /at most 0 numbers/],
    ['an endless array of texts', gguf([['a', 9, concat(u32(8), u64(many))]]), /at most 0 elements/],
    [
      'arrays within arrays without end',
      gguf([['a', 9, concat(...Array(99).fill(concat(u32(9), u64(1))))]]),
      /within each/,
    ],
    ['an unknown value type', gguf([['a', 13, u64(0)]]), /type of value.*13/],
    ['an unknown type in an array', gguf([['a', 9, concat(u32(99), u64(1), u64(0))]]), /type of value.*99/],
    ['a truth value of 2', gguf([['a', 7, Uint8Array.of(2)]]), /0 or 1/],
    ['text that is not UTF-8', gguf([['a', 8, concat(u64(1), Uint8Array.of(0xff))]]), /UTF-8/],
    ['a key twice', gguf([entry.u32('a', 1), entry.u32('a', 2)]), /'a' twice/],
    ['an alignment of 0', gguf([entry.u32('general.alignment', 0)]), /power of two/],
    ['an alignment of 24', gguf([entry.u32('general.alignment', 24)]), /power of two/],
    ['an alignment that is text', gguf([entry.text('general.alignment', '32')]), /whole number/],
    ['a tensor twice', gguf([], [f32('a', [8]), f32('a', [8])]), /'a' twice/],
    ['five dims', gguf([], [f32('a', [1, 1, 1, 1, 8])]), /at most 4 dims for 'a'/],
    [
      'a billion dims',
      concat(gguf([], [], { counts: [1, 0] }), text('a'), u32(1e9), new Uint8Array(99)),
      /at most 4 dims/,
    ],
    ['a shape that overflows', gguf([], [f32('a', [2n ** 40n, 2n ** 40n])]), /whole number below/],
    ['a dim beyond 2^53', gguf([], [f32('a', [2n ** 60n, 0])]), /whole number below/],
    ['a tensor beyond the file', gguf([], [f32('a', [16])]), /'a' to end within/],
    ['an offset beyond the file', gguf([], [f32('a', [8], 2n ** 20n)]), /'a' to end within/],
    ['an offset beyond 2^53', gguf([], [f32('a', [8], 2n ** 63n)]), /multiple of 32/],
    ['an offset between the alignments', gguf([], [f32('a', [4], 4n)]), /multiple of 32/],
    ['an overlap', gguf([], [f32('a', [8]), f32('b', [8], 0n)]), /to start where '[ab]' ends/],
    ['an unknown element type', gguf([], [{ ...f32('a', [8]), type: 4 }]), /known element type for 'a'.*4/],
    ['rows of broken blocks', gguf([], [{ ...f32('a', [16, 2]), type: 8 }]), /whole blocks of 32/],
  ];
  it.each(lies)('refuses %s', async (_, bytes, message) => {
    const error = await opening(bytes).catch((e: unknown) => e);
    expect(error).toMatchObject({ code: 'HADAL_ERR_FORMAT', message: expect.stringMatching(message) });
    expect((error as Error).message).toContain('bad.gguf');
  });

  it('names tensor and type where a type is not read', async () => {
    const bytes = gguf([], [{ name: 'blk.0.x', dims: [256], type: 10, data: new Uint8Array(84) }]);
    await expect(opening(bytes)).rejects.toMatchObject({
      code: 'HADAL_ERR_DTYPE',
      message: expect.stringMatching(/'blk\.0\.x'.*Q8_0.*got Q2_K/),
    });
  });

  it('reports files that cannot be read, are cut later, or are closed', async () => {
    await expect(GgufFile.open(join(dir, 'none.gguf'))).rejects.toMatchObject({ code: 'HADAL_ERR_IO' });
    await expect(GgufFile.open(dir)).rejects.toMatchObject({ code: 'HADAL_ERR_FORMAT' });
    const path = join(dir, 'cut.gguf');
    await writeFile(path, gguf([], [f32('a', [8])]));
    const opened = await GgufFile.open(path);
    await truncate(path, (await stat(path)).size - 5);
    await expect(opened.read('a')).rejects.toMatchObject({ code: 'HADAL_ERR_FORMAT' });
    await expect(opened.read('b')).rejects.toMatchObject({ code: 'HADAL_ERR_FORMAT' });
    await opened.close();
    await opened.close();
    await expect(opened.read('a')).rejects.toMatchObject({ code: 'HADAL_ERR_DISPOSED' });
  });
});

describe('a file in parts', () => {
  const part = (no: number, tensors: TensorInfo[], total = 3) => {
    const entries = [entry.u32('split.no', no), entry.u32('split.count', 2), entry.u32('split.tensors.count', total)];
    return gguf(entries, tensors);
  };
  const path = (no: number) => join(dir, `model-0000${no}-of-00002.gguf`);

  it('is opened by its first part', async () => {
    await writeFile(path(1), part(0, [f32('a', [8]), f32('b', [8])]));
    await writeFile(path(2), part(1, [{ ...f32('c', [8]), data: new Uint8Array(32).fill(63) }]));
    await using opened = await GgufFile.open(path(1));
    expect([...opened.tensors.keys()]).toEqual(['a', 'b', 'c']);
    expect((await opened.read('c'))[0]).toBe(63);
    await expect(GgufFile.open(path(2))).rejects.toThrow(/the first of 2 parts/);
  });

  it('is refused where parts do not belong together', async () => {
    await writeFile(path(1), part(0, [f32('a', [8])]));
    await writeFile(path(2), part(1, [f32('c', [8])]));
    await expect(GgufFile.open(path(1))).rejects.toThrow(/3 tensors in all parts.*got 2/);
    await writeFile(path(2), part(1, [f32('a', [8])]));
    await expect(GgufFile.open(path(1))).rejects.toThrow(/'a'/);
    await rm(path(2));
    await expect(GgufFile.open(path(1))).rejects.toMatchObject({ code: 'HADAL_ERR_IO' });
    await writeFile(join(dir, 'renamed.gguf'), part(0, [f32('a', [8])]));
    await expect(GgufFile.open(join(dir, 'renamed.gguf'))).rejects.toThrow(/whose name ends with -00001-of-00002/);
  });
});

describe('mutated files', () => {
  const stories = fileURLToPath(new URL('../../../shared/data/stories260K.gguf', import.meta.url));
  const whole = async (path: string) => new Uint8Array(await readFile(path));

  /** Bytes changed (mostly in the header), numbers made huge, the end cut off. */
  async function answersMutations(bytes: Uint8Array, headerBytes: number, runs: number): Promise<number> {
    const edit = fc.tuple(
      fc.oneof({ weight: 5, arbitrary: fc.nat(headerBytes - 8) }, { weight: 1, arbitrary: fc.nat(bytes.length - 8) }),
      fc.oneof(
        fc.uint8Array({ minLength: 1, maxLength: 4 }),
        fc.constant(new Uint8Array(8).fill(255)),
        fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }).map(u64),
      ),
    );
    const mutation = fc.record({
      edits: fc.array(edit, { minLength: 1, maxLength: 6 }),
      keep: fc.oneof(
        { weight: 3, arbitrary: fc.constant(bytes.length) },
        { weight: 1, arbitrary: fc.nat(bytes.length) },
      ),
    });
    let refused = 0;
    await fc.assert(
      fc.asyncProperty(mutation, async ({ edits, keep }) => {
        const changed = bytes.slice();
        for (const [at, value] of edits) changed.set(value, at);
        const error = await opening(changed.subarray(0, keep)).catch((e: unknown) => e);
        if (error === undefined) return;
        refused++;
        expect(error).toBeInstanceOf(HadalError);
        expect(['HADAL_ERR_FORMAT', 'HADAL_ERR_DTYPE']).toContain((error as HadalError).code);
      }),
      { numRuns: runs, seed: Number(process.env.HADAL_FUZZ_SEED ?? 1) },
    );
    return refused;
  }

  it('of the goldens give tensors or a HadalError', async () => {
    expect(await answersMutations(await whole(fromPython), 1200, 400)).toBeGreaterThan(100);
  });

  it.skipIf(!existsSync(stories))(
    'of stories260K give tensors or a HadalError (skipped without shared data)',
    async () => {
      expect(await answersMutations(await whole(stories), 14_176, 60)).toBeGreaterThan(15);
    },
  );
});
