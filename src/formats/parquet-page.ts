// Values of one page of a Parquet column of byte arrays. Every count and offset of a page is doubted.
// https://parquet.apache.org/docs/file-format/data-pages/encodings/

/** What a page header says of the values. */
export interface PageLayout {
  readonly encoding: string;
  /** Nulls included. */
  readonly values: number;
  /** Bytes of definition levels before the values; undefined: their length stands before them. */
  readonly levelBytes: number | undefined;
}

/** A value that comes `count` times, one after another; null is no value. */
export interface ValueRun {
  readonly value: Uint8Array | null;
  readonly count: number;
}

/** Bytes with a place to read at. */
class Cursor {
  at = 0;
  constructor(readonly bytes: Uint8Array) {}

  get left(): number {
    return this.bytes.length - this.at;
  }

  take(count: number): Uint8Array {
    if (!(count >= 0 && count <= this.left)) throw new Error(`${count} bytes where ${this.left} are left`);
    this.at += count;
    return this.bytes.subarray(this.at - count, this.at);
  }

  uint(bytes: number): number {
    return this.take(bytes).reduceRight((value, byte) => value * 256 + byte, 0);
  }

  varint(): number {
    let value = 0;
    for (let shift = 0; shift < 35; shift += 7) {
      const byte = this.uint(1);
      value += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80) return value;
    }
    throw new Error('a number of more than five bytes');
  }

  zigzag(): number {
    const value = this.varint();
    return value % 2 === 0 ? value / 2 : -(value + 1) / 2;
  }
}

/** The entries of a dictionary page. */
export function readDictionary(page: Uint8Array, count: number): Uint8Array[] {
  const cursor = new Cursor(page);
  if (count * 4 > page.length) throw new Error(`${count} dictionary entries in ${page.length} bytes`);
  return Array.from({ length: count }, () => cursor.take(cursor.uint(4)));
}

/**
 * Values of a data page, uncompressed, in order.
 *
 * @param isOptional - whether there are nulls
 * @throws Error for a page that is damaged
 */
export function* readPageValues(
  page: Uint8Array,
  { encoding, values, levelBytes }: PageLayout,
  isOptional: boolean,
  dictionary: readonly Uint8Array[] | undefined,
): Generator<ValueRun> {
  const cursor = new Cursor(page);
  const levels = isOptional ? new Cursor(cursor.take(levelBytes ?? cursor.uint(4))) : undefined;
  const next = decoders[encoding]?.(cursor, dictionary);
  if (next === undefined) throw new Error(`encoding ${encoding}`);
  for (const { value: level, count } of levels ? readRuns(levels, 1, values) : [{ value: 1, count: values }]) {
    if (level === 0) yield { value: null, count };
    else
      for (let left = count; left > 0; ) {
        const run = next(left);
        left -= run.count;
        yield run;
      }
  }
}

/** Gives the next value, at most so many times as are asked for. */
type NextRun = (most: number) => ValueRun;

const byIndex = (cursor: Cursor, dictionary: readonly Uint8Array[] | undefined): NextRun => {
  if (dictionary === undefined) throw new Error('no dictionary page');
  let runs: Generator<{ value: number; count: number }> | undefined;
  let value: Uint8Array = new Uint8Array();
  let count = 0;
  return (most) => {
    if (count === 0) {
      runs ??= readRuns(cursor, cursor.uint(1), Number.MAX_SAFE_INTEGER);
      const run = runs.next().value as { value: number; count: number };
      const entry = dictionary[run.value];
      if (entry === undefined) throw new Error(`entry ${run.value} of a dictionary of ${dictionary.length}`);
      value = entry;
      count = run.count;
    }
    const given = Math.min(most, count);
    count -= given;
    return { value, count: given };
  };
};

const decoders: Record<string, (cursor: Cursor, dictionary: readonly Uint8Array[] | undefined) => NextRun> = {
  PLAIN: (cursor) => () => ({ value: cursor.take(cursor.uint(4)), count: 1 }),
  PLAIN_DICTIONARY: byIndex,
  RLE_DICTIONARY: byIndex,
  DELTA_LENGTH_BYTE_ARRAY: (cursor) => {
    const lengths = readDeltas(cursor);
    let i = 0;
    return () => ({ value: cursor.take(lengths[i++] ?? -1), count: 1 });
  },
  DELTA_BYTE_ARRAY: (cursor) => {
    const prefixes = readDeltas(cursor);
    const lengths = readDeltas(cursor);
    let before = new Uint8Array();
    let i = 0;
    return () => {
      const prefix = new Cursor(before).take(prefixes[i] ?? -1);
      const suffix = cursor.take(lengths[i++] ?? -1);
      before = new Uint8Array(prefix.length + suffix.length);
      before.set(prefix);
      before.set(suffix, prefix.length);
      return { value: before, count: 1 };
    };
  },
};

/** Run-length encoded and bit-packed small numbers, `count` of them at most. */
function* readRuns(cursor: Cursor, width: number, count: number): Generator<{ value: number; count: number }> {
  if (width > 32) throw new Error(`numbers of ${width} bits`);
  for (let left = count; left > 0; ) {
    const head = cursor.varint();
    if (head % 2 === 0) {
      const run = { value: cursor.uint(Math.ceil(width / 8)), count: Math.min(left, head / 2) };
      left -= run.count;
      yield run;
      continue;
    }
    const packed = Math.min(left, ((head - 1) / 2) * 8);
    if (width === 0) {
      left -= packed;
      yield { value: 0, count: packed };
      continue;
    }
    // The padding of the last group may be cut off.
    const bytes = cursor.take(Math.min(((head - 1) / 2) * width, cursor.left));
    for (let i = 0; i < packed; i++) yield { value: bitsAt(bytes, i * width, width), count: 1 };
    left -= packed;
  }
}

/** Differences of whole numbers in blocks of bit-packed miniblocks. */
function readDeltas(cursor: Cursor): Float64Array {
  const blockSize = cursor.varint();
  const miniblocks = cursor.varint();
  const count = cursor.varint();
  const perMiniblock = blockSize / miniblocks;
  // A miniblock of width 0 takes no bytes, yet every block takes two at least.
  if (!(perMiniblock % 8 === 0 && perMiniblock > 0 && blockSize <= 65536 && count <= cursor.left * blockSize + 1))
    throw new Error(`${count} numbers in blocks of ${blockSize} with ${miniblocks} parts`);
  const values = new Float64Array(count);
  let value = cursor.zigzag();
  values[0] = value;
  for (let i = 1; i < count; ) {
    const least = cursor.zigzag();
    const widths = cursor.take(miniblocks);
    for (const width of widths) {
      if (i >= count) break;
      if (width > 32) throw new Error(`differences of ${width} bits`);
      const bytes = cursor.take((perMiniblock * width) / 8);
      for (let j = 0; j < perMiniblock && i < count; j++) {
        value += least + (width === 0 ? 0 : bitsAt(bytes, j * width, width));
        values[i++] = value;
      }
    }
  }
  return values;
}

/** `width` bits from bit `at` on, the lowest first. */
function bitsAt(bytes: Uint8Array, at: number, width: number): number {
  if (at + width > bytes.length * 8) throw new Error('bits beyond the end');
  let value = 0;
  for (let got = 0; got < width; ) {
    const shift = (at + got) % 8;
    const take = Math.min(8 - shift, width - got);
    const bits = ((bytes[(at + got) >> 3] as number) >> shift) & ((1 << take) - 1);
    value += bits * 2 ** got;
    got += take;
  }
  return value;
}
