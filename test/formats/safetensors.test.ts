import { mkdtemp, readFile, rm, stat, symlink, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { HadalError } from '../../src/core/errors.js';
import { fromFloat32, toFloat32 } from '../../src/formats/convert.js';
import { openSafetensors, openTensorDirectory } from '../../src/formats/safetensors.js';
import { type TensorToWrite, writeSafetensors, writeTensorDirectory } from '../../src/formats/safetensors-writer.js';

let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'hadal-safetensors-'));
});
afterAll(() => rm(dir, { recursive: true }));

const fromPython = fileURLToPath(new URL('./from-python.safetensors', import.meta.url));

function file(header: unknown, dataBytes: number, lengthBytes?: bigint): Uint8Array {
  const text = new TextEncoder().encode(typeof header === 'string' ? header : JSON.stringify(header));
  const bytes = new Uint8Array(8 + text.byteLength + dataBytes);
  new DataView(bytes.buffer).setBigUint64(0, lengthBytes ?? BigInt(text.byteLength), true);
  bytes.set(text, 8);
  return bytes;
}

async function opening(bytes: Uint8Array): Promise<void> {
  const path = join(dir, 'bad.safetensors');
  await writeFile(path, bytes);
  const opened = await openSafetensors(path);
  for (const name of opened.tensors.keys()) await opened.read(name);
  await opened.close();
}

const tensor = (name: string, values: number[]): TensorToWrite => ({
  name,
  dtype: 'F32',
  shape: [values.length],
  data: fromFloat32('F32', Float32Array.from(values)),
});

describe('openSafetensors', () => {
  it('reads what the Python library wrote', async () => {
    const opened = await openSafetensors(fromPython);
    const numbers = async (name: string) => [
      ...toFloat32(opened.tensors.get(name)?.dtype ?? 'U8', await opened.read(name)),
    ];
    expect(await numbers('a.weight')).toEqual([0, 1, 2, 3, 4, 5]);
    expect(opened.tensors.get('a.weight')?.shape).toEqual([2, 3]);
    expect(await numbers('b')).toEqual([1.5, -2]);
    expect(await numbers('c')).toEqual([0.5]);
    expect(await numbers('scalar')).toEqual([3]);
    expect(await numbers('fp8')).toEqual([448, -0.5]);
    expect(await numbers('none')).toEqual([]);
    expect([...new BigInt64Array((await opened.read('ids')).buffer)]).toEqual([1n, -1n]);
    expect([...(await opened.read('odd'))]).toEqual([1, 2, 3]);
    expect(opened.metadata).toEqual({ format: 'pt' });
    await opened.close();
    await expect(opened.read('b')).rejects.toMatchObject({ code: 'HADAL_ERR_DISPOSED' });
  });

  it('reads into shared memory and refuses the wrong size', async () => {
    await using opened = await openSafetensors(fromPython);
    const into = new Uint8Array(new SharedArrayBuffer(24));
    expect(await opened.read('a.weight', into)).toBe(into);
    expect([...toFloat32('F32', into)]).toEqual([0, 1, 2, 3, 4, 5]);
    await expect(opened.read('a.weight', new Uint8Array(23))).rejects.toMatchObject({ code: 'HADAL_ERR_SHAPE' });
    await expect(opened.read('zz')).rejects.toMatchObject({ code: 'HADAL_ERR_FORMAT' });
  });

  const f32 = (shape: unknown, offsets: unknown, dtype: unknown = 'F32') => ({ dtype, shape, data_offsets: offsets });
  const lies: [string, Uint8Array, RegExp][] = [
    ['an empty file', new Uint8Array(0), /at least 8 bytes/],
    ['a length beyond the file', file({}, 0, 100n), /header of at most/],
    ['a huge length', file({}, 0, 2n ** 64n - 1n), /header of at most/],
    ['no object', file('[1]', 0), /starts with/],
    ['broken JSON', file('{"a":', 0), /valid JSON/],
    ['endless nesting', file(`{"a":${'['.repeat(1e6)}`, 0), /nesting/],
    ['bytes that are not UTF-8', file({}, 0, 2n).with(9, 0xff), /not UTF-8/],
    ['a name twice', file('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"\\u0061":{}}', 1), /'a' twice/],
    ['an unknown dtype', file({ a: f32([1], [0, 4], 'F12') }, 4), /dtype.*'a'/],
    ['a dtype of the prototype', file({ a: f32([1], [0, 4], 'toString') }, 4), /dtype.*'a'/],
    ['a negative dim', file({ a: f32([-1], [0, 4]) }, 4), /shape.*'a'/],
    ['a fraction of a dim', file({ a: f32([0.5, 2], [0, 4]) }, 4), /shape.*'a'/],
    ['a shape that overflows', file({ a: f32([2 ** 40, 2 ** 40], [0, 4]) }, 4), /span.*'a'/],
    ['offsets that do not fit the shape', file({ a: f32([2], [0, 4]) }, 4), /span the 8 bytes/],
    ['offsets beyond the file', file({ a: f32([2], [0, 8]) }, 4), /'a' to end within/],
    ['offsets backwards', file({ a: f32([0], [4, 0]) }, 4), /span/],
    ['an overlap', file({ a: f32([1], [0, 4]), b: f32([1], [2, 6]) }, 8), /'b' to start/],
    ['a hole', file({ a: f32([1], [0, 4]), b: f32([1], [8, 12]) }, 12), /'b' to start/],
    ['bytes nobody owns', file({ a: f32([1], [0, 4]) }, 5), /last byte/],
    ['metadata that is not text', file({ __metadata__: { a: 1 } }, 0), /__metadata__/],
    ['an entry that is null', file({ a: null }, 0), /'a'/],
  ];
  it.each(lies)('refuses %s', async (_, bytes, message) => {
    const error = await opening(bytes).catch((e: unknown) => e);
    expect(error).toMatchObject({ code: 'HADAL_ERR_FORMAT', message: expect.stringMatching(message) });
    expect((error as Error).message).toContain('bad.safetensors');
  });

  it('says when the file was cut after it was opened', async () => {
    const path = join(dir, 'cut.safetensors');
    await writeSafetensors(path, [tensor('a', [1, 2, 3, 4])]);
    await using opened = await openSafetensors(path);
    await truncate(path, (await stat(path)).size - 5);
    await expect(opened.read('a')).rejects.toMatchObject({ code: 'HADAL_ERR_FORMAT' });
  });

  it('reports files that cannot be read', async () => {
    await expect(openSafetensors(join(dir, 'none'))).rejects.toMatchObject({ code: 'HADAL_ERR_IO' });
    await expect(openSafetensors(dir)).rejects.toMatchObject({ code: 'HADAL_ERR_FORMAT' });
  });

  it('answers mutated files with tensors or a HadalError', async () => {
    const whole = new Uint8Array(await readFile(fromPython));
    const mutation = fc.record({
      edits: fc.array(fc.tuple(fc.nat(whole.length - 1), fc.nat(255)), { maxLength: 6 }),
      keep: fc.oneof(fc.constant(whole.length), fc.nat(whole.length)),
      append: fc.uint8Array({ maxLength: 9 }),
    });
    let refused = 0;
    await fc.assert(
      fc.asyncProperty(mutation, async ({ edits, keep, append }) => {
        const bytes = Uint8Array.from([...whole.subarray(0, keep), ...append]);
        for (const [at, value] of edits) if (at < bytes.length) bytes[at] = value;
        const error = await opening(bytes).catch((e: unknown) => e);
        if (error === undefined) return;
        refused++;
        expect(error).toBeInstanceOf(HadalError);
        expect(error).toMatchObject({ code: 'HADAL_ERR_FORMAT' });
      }),
      { numRuns: 400 },
    );
    expect(refused).toBeGreaterThan(100);
  });

  it('answers random headers with a HadalError', async () => {
    const entry = fc.record(
      {
        dtype: fc.oneof(fc.constantFrom('F32', 'BF16', 'U8'), fc.string(), fc.integer()),
        shape: fc.oneof(fc.array(fc.integer({ min: -1, max: 9 }), { maxLength: 3 }), fc.jsonValue()),
        data_offsets: fc.oneof(fc.tuple(fc.nat(64), fc.nat(64)), fc.jsonValue()),
      },
      { requiredKeys: [] },
    );
    await fc.assert(
      fc.asyncProperty(fc.dictionary(fc.string({ maxLength: 3 }), entry), fc.nat(64), async (header, dataBytes) => {
        const error = await opening(file(header, dataBytes)).catch((e: unknown) => e);
        if (error !== undefined) expect(error).toBeInstanceOf(HadalError);
      }),
      { numRuns: 300 },
    );
  });
});

describe('writeSafetensors', () => {
  it('writes aligned data that reads back, lazily made', async () => {
    const path = join(dir, 'out.safetensors');
    const bytes = Uint8Array.of(7, 8, 9);
    const lazy = { ...tensor('b', [1, 2]), data: async () => fromFloat32('F32', Float32Array.of(1, 2)) };
    await writeSafetensors(path, [
      { name: 'odd', dtype: 'U8', shape: [3], data: bytes },
      lazy,
      tensor('__proto__', [5]),
    ]);
    await using opened = await openSafetensors(path);
    expect([...opened.tensors.keys()].sort()).toEqual(['__proto__', 'b', 'odd']);
    expect(await opened.read('odd')).toEqual(bytes);
    expect([...toFloat32('F32', await opened.read('b'))]).toEqual([1, 2]);
    for (const entry of opened.tensors.values()) if (entry.dtype === 'F32') expect((entry.byteOffset % 8) % 4).toBe(0);
    expect(opened.metadata).toEqual({ format: 'pt' });
  });

  it('leaves the earlier file alone when something goes wrong', async () => {
    const path = join(dir, 'kept.safetensors');
    await writeSafetensors(path, [tensor('a', [1])]);
    const before = await readFile(path);
    const wrong = { ...tensor('b', [1, 2]), shape: [3] };
    await expect(writeSafetensors(path, [tensor('a', [2]), wrong])).rejects.toMatchObject({ code: 'HADAL_ERR_SHAPE' });
    await expect(writeSafetensors(path, [tensor('a', [2]), tensor('a', [3])])).rejects.toThrow(/'a' twice/);
    expect(await readFile(path)).toEqual(before);
  });
});

describe('tensor directories', () => {
  it('splits into shards and joins them again', async () => {
    const tensors = Array.from({ length: 5 }, (_, i) => tensor(`t${i}`, [i, i + 0.5, -i]));
    await writeTensorDirectory(dir, tensors, { maxShardBytes: 24, name: 'split' });
    const index = JSON.parse(await readFile(join(dir, 'split.safetensors.index.json'), 'utf8'));
    expect(index.metadata.total_size).toBe(60);
    expect(new Set(Object.values(index.weight_map))).toEqual(
      new Set([1, 2, 3].map((i) => `split-0000${i}-of-00003.safetensors`)),
    );
    await using opened = await openTensorDirectory(dir, { name: 'split' });
    expect([...opened.tensors.keys()]).toEqual(['t0', 't1', 't2', 't3', 't4']);
    expect([...toFloat32('F32', await opened.read('t3'))]).toEqual([3, 3.5, -3]);
  });

  it('writes a single file where it suffices', async () => {
    await writeTensorDirectory(dir, [tensor('a', [1])], { name: 'one' });
    await using opened = await openTensorDirectory(dir, { name: 'one' });
    expect([...opened.tensors.keys()]).toEqual(['a']);
    await expect(openTensorDirectory(dir, { name: 'neither' })).rejects.toThrow(/got neither/);
  });

  it.each([
    ['a way out of the directory', '../model.safetensors'],
    ['an absolute path', '/etc/x.safetensors'],
    ['a Windows way out', '..\\x.safetensors'],
    ['another kind of file', 'config.json'],
  ])('refuses %s in the index', async (_, name) => {
    await writeFile(join(dir, 'leave.safetensors.index.json'), JSON.stringify({ weight_map: { a: name } }));
    await expect(openTensorDirectory(dir, { name: 'leave' })).rejects.toMatchObject({
      code: 'HADAL_ERR_FORMAT',
      message: expect.stringContaining('names of .safetensors files beside it'),
    });
  });

  it('names the tensor that a shard lacks, and follows links', async () => {
    await writeSafetensors(join(dir, 'blob.safetensors'), [tensor('a', [1])]);
    await symlink(join(dir, 'blob.safetensors'), join(dir, 'link-1.safetensors'));
    const map = { a: 'link-1.safetensors' };
    await writeFile(join(dir, 'link.safetensors.index.json'), JSON.stringify({ weight_map: map }));
    await (await openTensorDirectory(dir, { name: 'link' })).close();
    await writeFile(
      join(dir, 'link.safetensors.index.json'),
      JSON.stringify({ weight_map: { ...map, b: 'link-1.safetensors' } }),
    );
    await expect(openTensorDirectory(dir, { name: 'link' })).rejects.toThrow(/'b' in link-1.safetensors/);
  });
});
