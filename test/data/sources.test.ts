import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path, { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { parquetWriteBuffer } from 'hyparquet-writer';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { DataSource } from '../../src/data/data-config.js';
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
  sources: DataSource[],
  options: Partial<SourceOptions> = {},
  stats = newSourceStats(),
): Promise<string[]> {
  const found: string[] = [];
  for await (const { text } of readDocuments({ sources, ...options }, stats)) found.push(text);
  return found;
}

/** A Parquet file of these columns. */
async function parquetOf(
  columns: Record<string, unknown[]>,
  type: 'STRING' | 'BYTE_ARRAY' = 'STRING',
): Promise<Buffer> {
  const columnData = Object.entries(columns).map(([name, data]) => ({ name, data, type }));
  return Buffer.from(parquetWriteBuffer({ columnData }));
}

describe('tables', () => {
  it('follow RFC 4180: quotes, separators and line ends within fields', async () => {
    const rows = 'id,text,more\r\n1,"a ""quoted"", b\r\nnext line",x\r\n2,plain,\r\n\r\n3,,z\r\n4,"  ",z\r\n5,last,z';
    const expected = ['a "quoted", b\r\nnext line', 'plain', 'last'];
    expect(await texts([await put('a.csv', rows)])).toEqual(expected);
    expect(await texts([await put('b.csv.gz', gzipSync(rows))])).toEqual(expected);
    const tabs = 'id\ttext\n1\tsays "so", he\n2\t"two\nlines"\n';
    expect(await texts([await put('c.tsv', tabs)])).toEqual(['says "so", he', 'two\nlines']);
  });

  it('read back what any writer of RFC 4180 wrote', async () => {
    const field = fc.string({ unit: fc.constantFrom('a', '"', ',', '\n', '\r', 'é', '😀', ' '), minLength: 1 });
    const quoted = (text: string): string => `"${text.replaceAll('"', '""')}"`;
    await fc.assert(
      fc.asyncProperty(fc.array(fc.tuple(field, field), { minLength: 1, maxLength: 5 }), async (rows) => {
        const lines = [['text', 'other'], ...rows].map((row) => row.map(quoted).join(','));
        const given = rows.map(([text]) => text).filter((text) => /\S/.test(text));
        const found = await texts([await put('p.csv', lines.join('\r\n'))]).catch((error) => {
          if (given.length > 0) throw error;
          return [];
        });
        expect(found).toEqual(given);
      }),
      { numRuns: 200 },
    );
  });

  it.each([
    ['without the column', 'id,body\n1,x\n', "column 'text' in the first row of .*, got id, body; name one"],
    ['with a row too short', 'id,text\n1,x\n2\n', 'a\\.csv:3, got Invalid Record Length'],
    ['with a quote left open', 'id,text\n1,"x\n2,y\n', 'a\\.csv:\\d, got Quote Not Closed'],
    ['with a stray quote', 'id,text\n1,x"y\n', 'a\\.csv:2, got Invalid Opening Quote'],
    ['that are empty', '', 'expected text, got none'],
  ])('%s are refused', async (_, content, message) => {
    await expect(texts([await put('a.csv', content)])).rejects.toMatchObject({
      code: 'HADAL_ERR_DATA',
      message: expect.stringMatching(message),
    });
  });
});

describe('lines', () => {
  it('that are very long take time in proportion', async () => {
    const long = 'x'.repeat(15_000_000);
    expect(await texts([await put('a.jsonl.gz', gzipSync(`{"text":"${long}"}\n`, { level: 1 }))])).toEqual([long]);
    const endless = gzipSync(`{"text":"${'x'.repeat(70_000_000)}"}`, { level: 1 });
    await expect(texts([await put('b.jsonl.gz', endless)])).rejects.toThrow(
      /2\^26 characters, got a longer one, .*:1;/,
    );
    const text = gzipSync(JSON.stringify({ text: 'x'.repeat(17_000_000) }), { level: 1 });
    await expect(texts([await put('c.jsonl.gz', text)])).rejects.toThrow(/documents of at most 2\^24 .*c\.jsonl\.gz:1/);
  });
});

describe('readDocuments', () => {
  it('reads text, JSON lines and their gzip, directories by name', async () => {
    await put('b.txt', 'text one');
    await put('c.txt.gz', gzipSync('text two'));
    await put('d.jsonl', '{"text":"three"}\n\n{"text":"four \\ud83d\\ude00","id":4}');
    await put('e.jsonl.gz', gzipSync('{"text":"five"}\n'));
    await put('f.md', '# six');
    await put('g.csv', 'id,text\n1,seven\n');
    await put('h.TSV', 'text\tid\neight\t2\n');
    await put('i.parquet', await parquetOf({ text: ['nine', 'ten'] }));
    await put('ignored.bin', 'no');
    await put('.hidden.txt', 'no');
    for (const folder of ['a', 'a.b', '.git']) {
      await mkdir(join(dir, folder));
      await put(`${folder}/z.txt`, folder);
    }
    await symlink(dir, join(dir, 'a', 'loop'));
    const numbers = ['text one', 'text two', 'three', 'four 😀', 'five', '# six', 'seven', 'eight', 'nine', 'ten'];
    expect(await texts([dir])).toEqual(['a', 'a.b', ...numbers]);
  });

  it('reads what globs match, sorted, and says when nothing does', async () => {
    for (const folder of ['a', 'b']) {
      await mkdir(join(dir, folder));
      for (const name of ['2.txt', '1.md', 'x.bin']) await put(`${folder}/${name}`, `${folder}${name}`);
    }
    expect(await texts([join(dir, '**/*')])).toEqual(['a1.md', 'a2.txt', 'b1.md', 'b2.txt']);
    expect(await texts([join(dir, '{b,a}/*.txt')])).toEqual(['a2.txt', 'b2.txt']);
    expect(await texts([join(dir, 'b/*.txt'), join(dir, 'a/*.txt')])).toEqual(['b2.txt', 'a2.txt']);
    const relative = path.relative(process.cwd(), dir);
    expect(await texts([`${relative}/*/[12].txt`])).toEqual(['a2.txt', 'b2.txt']);
    await symlink(dir, join(dir, 'a', 'loop'));
    await symlink(join(dir, 'a', '1.md'), join(dir, 'b', '0.md'));
    expect(await texts([join(dir, '**/*.md')])).toEqual(['a1.md', 'b1.md']);
    await rm(join(dir, 'a', 'loop'));
    await put('c.md', 'c');
    await symlink(join(dir, 'c.md'), join(dir, 'b', 'd.md'));
    expect(await texts([join(dir, 'b/*.md')])).toEqual(['a1.md', 'b1.md', 'c']);
    // A file of that very name comes before the pattern.
    expect(await texts([await put('[12].txt', 'brackets')])).toEqual(['brackets']);
    for (const pattern of ['*.csv', 'a/*.bin', 'c/**']) {
      await expect(texts([join(dir, pattern)])).rejects.toMatchObject({
        code: 'HADAL_ERR_IO',
        message: expect.stringContaining(`files that match '${join(dir, pattern)}', got none`),
      });
    }
  });

  it('takes the field from a source before that of all', async () => {
    const one = await put('a.jsonl', '{"body":"x"}\n');
    const two = await put('b.csv', 'title,text\ny,z\n');
    const sources = [one, { path: two, textField: 'title' }];
    expect(await texts(sources, { textField: 'body' })).toEqual(['x', 'y']);
  });

  it('reads another field', async () => {
    const path = await put('a.jsonl', '{"body":"x","text":1}\n');
    expect(await texts([path], { textField: 'body' })).toEqual(['x']);
  });

  it('replaces and counts bytes that are not UTF-8, across chunks too', async () => {
    const stats = newSourceStats();
    const path = await put('a.txt', Buffer.concat([Buffer.from('é'.repeat(200_000)), Buffer.from([0xff, 0x61, 0xc3])]));
    const replaced = await texts([path], { invalidUtf8: 'replace' }, stats);
    expect(replaced.join('')).toBe(`${'é'.repeat(200_000)}\ufffda\ufffd`);
    expect(stats.invalidUtf8).toBe(2);
  });

  it('names the line of bytes that are not UTF-8, wherever chunks end', async () => {
    const long = `${'é\n'.repeat(200_000)}`;
    const latin1 = Buffer.concat([Buffer.from(long), Buffer.from('caf\xe9\n', 'latin1'), Buffer.from(long)]);
    const cut = Buffer.from('ab\né').subarray(0, 4);
    for (const [name, bytes, line] of [
      ['a.txt', latin1, 200_001],
      ['b.jsonl', Buffer.from('{"text":"x"}\n{"text":"\xe9"}', 'latin1'), 2],
      ['c.csv.gz', gzipSync(Buffer.from('text\nx\n\n\xe9', 'latin1')), 4],
      ['d.md', cut, 2],
      ['e.txt', Buffer.from('\ufefftext', 'utf16le'), 1],
    ] as const) {
      await expect(texts([await put(name, bytes)])).rejects.toMatchObject({
        code: 'HADAL_ERR_DATA',
        message: expect.stringContaining(`UTF-8 in ${join(dir, name)}:${line}, got other bytes`),
      });
    }
    const path = await put(
      'f.parquet',
      await parquetOf({ text: [Buffer.from('x'), Buffer.of(0x61, 0xff)] }, 'BYTE_ARRAY'),
    );
    await expect(texts([path])).rejects.toThrow(`UTF-8 in row 2 of ${path}`);
    expect(await texts([path], { invalidUtf8: 'replace' })).toEqual(['x', 'a\ufffd']);
  });

  it('leaves out a byte-order mark', async () => {
    for (const [name, rest] of [
      ['a.txt', 'x'],
      ['b.jsonl', '{"text":"x"}'],
      ['c.csv', 'text\nx'],
    ] as const)
      expect(await texts([await put(name, `\ufeff${rest}`)])).toEqual(['x']);
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
    ['no such field', '{"txt":"x","n":1}', /string 'text' in .*a\.jsonl:2, got fields txt, n; name the field/],
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
