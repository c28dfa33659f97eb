import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { newSourceStats, readDocuments, type SourceOptions, splitPartOf } from '../../src/data/sources.js';

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'hadal-sources-'));
});
afterEach(() => rm(dir, { recursive: true }));

async function put(name: string, content: string | Uint8Array): Promise<string> {
  const path = join(dir, name);
  await writeFile(path, content);
  return path;
}

async function texts(
  sources: string[],
  options: Partial<SourceOptions> = {},
  stats = newSourceStats(),
): Promise<string[]> {
  const found: string[] = [];
  for await (const { text } of readDocuments({ sources, ...options }, stats)) found.push(text);
  return found;
}

describe('readDocuments', () => {
  it('reads text, JSON lines and their gzip, directories by name', async () => {
    await put('b.txt', 'text one');
    await put('c.txt.gz', gzipSync('text two'));
    await put('d.jsonl', '{"text":"three"}\n\n{"text":"four \\ud83d\\ude00","id":4}');
    await put('e.jsonl.gz', gzipSync('{"text":"five"}\n'));
    await put('ignored.md', 'no');
    await mkdir(join(dir, 'a'));
    await put('a/z.txt', 'zero');
    expect(await texts([dir])).toEqual(['zero', 'text one', 'text two', 'three', 'four 😀', 'five']);
  });

  it('reads another field', async () => {
    const path = await put('a.jsonl', '{"body":"x","text":1}\n');
    expect(await texts([path], { textField: 'body' })).toEqual(['x']);
  });

  it('replaces and counts bytes that are not UTF-8, across chunks too', async () => {
    const stats = newSourceStats();
    const path = await put('a.txt', Buffer.concat([Buffer.from('é'.repeat(200_000)), Buffer.from([0xff, 0x61, 0xc3])]));
    expect((await texts([path], {}, stats)).join('')).toBe(`${'é'.repeat(200_000)}\ufffda\ufffd`);
    expect(stats.invalidUtf8).toBe(2);
  });

  it('cuts long text into pieces that join to the whole, at blank lines where there are any', async () => {
    const paragraphs = `${'word '.repeat(50)}\n\n`.repeat(400);
    const pieces = await texts([await put('a.txt', paragraphs)]);
    expect(pieces.join('')).toBe(paragraphs);
    expect(pieces.length).toBeGreaterThan(20);
    expect(pieces.every((piece) => piece.endsWith('\n\n'))).toBe(true);
    const emoji = '😀'.repeat(100_000);
    const cut = await texts([await put('b.txt', `x${emoji}`)]);
    expect(cut.length).toBeGreaterThan(10);
    expect(cut.join('')).toBe(`x${emoji}`);
    expect(cut.some((piece) => /\p{Surrogate}/u.test(piece))).toBe(false);
  });

  it.each([
    ['no JSON', 'nonsense', /a\.jsonl:2/],
    ['no object', '7', /a\.jsonl:2/],
    ['no such field', '{"txt":"x"}', /string 'text' in .*a\.jsonl:2/],
    ['a field of another type', '{"text":["x"]}', /a\.jsonl:2/],
  ])('names the line that is %s', async (_, line, message) => {
    const path = await put('a.jsonl', `{"text":"good"}\n${line}\n`);
    await expect(texts([path])).rejects.toMatchObject({
      code: 'HADAL_ERR_DATA',
      message: expect.stringMatching(message),
    });
  });

  it('refuses data without text', async () => {
    const empty = await put('a.txt', ' \n ');
    for (const sources of [[empty], [], [await put('b.jsonl', '')], [await put('c.bin', 'x')]]) {
      await expect(texts(sources)).rejects.toMatchObject({ code: 'HADAL_ERR_DATA' });
    }
    await mkdir(join(dir, 'none'));
    await expect(texts([join(dir, 'none')])).rejects.toMatchObject({ code: 'HADAL_ERR_DATA' });
    await expect(texts([join(dir, 'missing.txt')])).rejects.toMatchObject({ code: 'HADAL_ERR_IO' });
  });

  it('refuses damaged gzip', async () => {
    const whole = gzipSync('x'.repeat(1e5));
    for (const bytes of [whole.subarray(0, whole.length - 9), Buffer.from('no gzip'), whole.fill(0x55, 20, 40)]) {
      await expect(texts([await put('a.txt.gz', bytes)])).rejects.toMatchObject({ code: 'HADAL_ERR_DATA' });
    }
  });

  it('makes synthetic text, the same every time', async () => {
    const once = await texts(['synthetic']);
    expect(once.length).toBe(400);
    expect(await texts(['synthetic'])).toEqual(once);
    expect(new Set(once).size).toBe(400);
  });

  it('reads the State of the Union addresses', async () => {
    const addresses = await texts(['sotu']);
    expect(addresses.length).toBeGreaterThan(232);
    expect(addresses.join('').length).toBeGreaterThan(10_000_000);
  });

  it('stops when told to', async () => {
    const stopped = texts(['synthetic'], { signal: AbortSignal.abort() });
    await expect(stopped).rejects.toMatchObject({ code: 'HADAL_ERR_ABORTED' });
  });
});

describe('splitPartOf', () => {
  it('holds out the share asked for, and both parts exist from two documents on', () => {
    const heldOut = (count: number, share: number): number =>
      Array.from({ length: count }, (_, i) => splitPartOf(i, share)).filter((part) => part === 'heldOut').length;
    expect(heldOut(1000, 0.05)).toBe(50);
    expect(heldOut(1000, 0)).toBe(0);
    expect(heldOut(1000, 0.5)).toBe(500);
    expect(heldOut(2, 0.05)).toBe(1);
    expect(heldOut(1, 0.05)).toBe(0);
  });
});
