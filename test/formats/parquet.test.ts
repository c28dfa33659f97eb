import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parquetWriteBuffer } from 'hyparquet-writer';
import { afterAll, describe, expect, it } from 'vitest';
import { HadalError } from '../../src/core/errors.js';
import { readParquetColumn } from '../../src/formats/parquet.js';
import { endOfThriftStruct } from '../../src/formats/thrift-check.js';
import { Rng } from '../support/rng.js';

const goldens = join(import.meta.dirname, 'parquet');
const dir = mkdtempSync(join(tmpdir(), 'hadal-parquet-'));
afterAll(() => rmSync(dir, { recursive: true }));

async function textsOf(path: string, column = 'text'): Promise<string[]> {
  const found: string[] = [];
  for await (const { bytes, row } of readParquetColumn(path, column)) found[row - 1] = Buffer.from(bytes).toString();
  return found;
}

const files = readdirSync(goldens).filter((name) => name.endsWith('.parquet'));
const expected = JSON.parse(readFileSync(join(goldens, 'texts.json'), 'utf8')) as (string | null)[];

describe('readParquetColumn', () => {
  it.each(files)('reads %s as pyarrow wrote it', async (name) => {
    const found = await textsOf(join(goldens, name));
    const required = name === 'required.parquet';
    for (const [i, text] of expected.entries()) expect(found[i]).toBe(text ?? (required ? '' : undefined));
    expect(found.length).toBe(300);
  });

  it.each([
    ['nothing', 'title', /column 'title' in .*, got none; there are id, text, meta, words; name one/],
    ['numbers', 'id', /texts in column 'id' of .*, got INT64/],
    ['a nested column', 'meta', /texts in column 'meta' of .*, got a nested column; there are id, text/],
    ['lists', 'words', /texts in column 'words'/],
  ])('refuses %s', async (_, column, message) => {
    const reading = textsOf(join(goldens, 'snappy.parquet'), column);
    await expect(reading).rejects.toMatchObject({ code: 'HADAL_ERR_DATA', message: expect.stringMatching(message) });
  });

  it.each([
    ['an empty file', Buffer.alloc(0)],
    ['another format', Buffer.from('text that is no Parquet file at all')],
    ['an encrypted file', Buffer.concat([Buffer.alloc(40), Buffer.from('PARE')])],
    [
      'a footer longer than the file',
      Buffer.concat([Buffer.alloc(40), Buffer.of(255, 255, 255, 127), Buffer.from('PAR1')]),
    ],
    ['the first half of a file', readFileSync(join(goldens, 'snappy.parquet')).subarray(0, 2500)],
  ])('refuses %s', async (_, bytes) => {
    const path = join(dir, 'damaged.parquet');
    writeFileSync(path, bytes);
    await expect(textsOf(path)).rejects.toMatchObject({ code: 'HADAL_ERR_DATA' });
    await expect(textsOf(join(dir, 'none.parquet'))).rejects.toMatchObject({ code: 'HADAL_ERR_IO' });
  });

  it('says of a page whose checksum is wrong which row group it is in', async () => {
    const bytes = readFileSync(join(goldens, 'plain-1.0.parquet'));
    const page = endOfThriftStruct(bytes, 4);
    bytes[page + 40] = (bytes[page + 40] as number) ^ 1;
    const path = join(dir, 'flipped.parquet');
    writeFileSync(path, bytes);
    await expect(textsOf(path)).rejects.toThrow(`another checksum in row group 1 of ${path}`);
  });

  it('holds the rows of large groups to their number, and repeats what is repeated', async () => {
    const path = join(dir, 'repeated.parquet');
    const data = Array.from({ length: 5000 }, (_, i) => (i < 4000 ? 'same' : `other ${i}`));
    writeFileSync(path, Buffer.from(parquetWriteBuffer({ columnData: [{ name: 'text', data, type: 'STRING' }] })));
    expect(await textsOf(path)).toEqual(data);
  });

  // A longer run of the same: FUZZ_CASES=100000.
  it('meets damaged files with an error or with texts, soon, and nothing else', async () => {
    const rng = new Rng('parquet');
    const next = (): number => rng.integer(2 ** 31);
    const originals = files.map((name) => readFileSync(join(goldens, name)));
    const path = join(dir, 'mutated.parquet');
    const cases = Number(process.env.FUZZ_CASES ?? 1500);
    let refused = 0;
    for (let i = 0; i < cases; i++) {
      const bytes = Buffer.from(originals[next() % originals.length] as Buffer);
      const footer = bytes.length - 8 - bytes.readUInt32LE(bytes.length - 8);
      for (let n = 1 + (next() % 4); n > 0; n--) {
        const at = next() % 2 ? footer + (next() % (bytes.length - footer)) : next() % bytes.length;
        const values = [next() % 256, 0, 255, 127, 128, (bytes[at] as number) ^ (1 << (next() % 8))];
        bytes[at] = values[next() % values.length] as number;
      }
      writeFileSync(path, next() % 8 ? bytes : bytes.subarray(next() % 100, bytes.length - (next() % 3)));
      const before = process.cpuUsage();
      let texts = 0;
      try {
        for await (const value of readParquetColumn(path, 'text')) texts += value.row > 0 ? 1 : 0;
      } catch (error) {
        if (!(error instanceof HadalError)) throw error;
        expect(error).toMatchObject({ code: 'HADAL_ERR_DATA' });
        expect(error.message.length).toBeLessThan(1000);
        refused++;
      }
      expect(texts).toBeLessThan(1e6);
      // Of the processor, since others may want it, too.
      expect(process.cpuUsage(before).user / 1000).toBeLessThan(1000);
    }
    expect(refused).toBeGreaterThan(cases / 3);
  }, 3_600_000);
});

describe('endOfThriftStruct', () => {
  it('refuses what would make a trusting parser hang or run out of memory', () => {
    const refused: [number[], RegExp][] = [
      [[0x15], /without end/],
      [[0x15, ...new Array<number>(11).fill(0x80)], /more than ten bytes/],
      [[0x19, 0xf5, 0xff, 0xff, 0xff, 0x7f, 0], /a list of 268435455 where/],
      [[0x18, 0x7f, 0], /127 bytes where/],
      [new Array<number>(40).fill(0x1c), /more than 16 levels/],
      [[0x1d, 0], /type 13/],
    ];
    for (const [bytes, message] of refused) expect(() => endOfThriftStruct(Uint8Array.from(bytes), 0)).toThrow(message);
    expect(endOfThriftStruct(Uint8Array.of(9, 0x15, 0x02, 0x11, 0x19, 0x25, 1, 2, 0x1c, 0, 0, 7), 1)).toBe(11);
  });
});
