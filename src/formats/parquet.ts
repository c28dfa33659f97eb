// One column of texts of a Parquet file, page by page. Files are parsed by hyparquet; what they claim is checked against
// what there is before anything is allocated or counted.
import { type FileHandle, open } from 'node:fs/promises';
import { brotliDecompressSync, crc32, gunzipSync } from 'node:zlib';
import { type ColumnMetaData, type FileMetaData, type PageHeader, parquetMetadata } from 'hyparquet';
import { parquetHeader } from 'hyparquet/src/column.js';
import { decompressLz4, decompressLz4Raw, decompressSnappy } from 'hyparquet-compressors';
import { ZSTDDecoder } from 'zstddec';
import { HadalError } from '../core/errors.js';
import { withFileErrors } from './file-error.js';
import { readDictionary, readPageValues } from './parquet-page.js';
import { endOfThriftStruct } from './thrift-check.js';

/** A value of the column, as bytes. */
export interface ColumnValue {
  readonly bytes: Uint8Array;
  /** Counted from 1 over the file. */
  readonly row: number;
}

/** Ends where its output is full. The decompressor of hyparquet-compressors goes on: a small page could keep it for seconds. */
const zstd = new ZSTDDecoder();

/** A codec's decompressor, and how much larger than its input its output can be. */
const codecs: Record<string, { ratio: number; run: (bytes: Uint8Array, length: number) => Uint8Array } | undefined> = {
  UNCOMPRESSED: { ratio: 1, run: (bytes) => bytes },
  SNAPPY: { ratio: 32, run: decompressSnappy },
  GZIP: { ratio: 1040, run: (bytes, length) => gunzipSync(bytes, { maxOutputLength: Math.max(1, length) }) },
  BROTLI: {
    ratio: 2 ** 20,
    run: (bytes, length) => brotliDecompressSync(bytes, { maxOutputLength: Math.max(1, length) }),
  },
  ZSTD: { ratio: 2 ** 16, run: (bytes, length) => zstd.decode(bytes, length) },
  LZ4: { ratio: 256, run: decompressLz4 },
  LZ4_RAW: { ratio: 256, run: decompressLz4Raw },
};

const maxPageBytes = 2 ** 30;
const maxFooterBytes = 2 ** 28;
/** Most texts a byte of the file may stand for: repeated ones take next to nothing, and no file could be refused for them. */
const maxTextsPerByte = 1024;

/**
 * Values of a column of strings in order, nulls left out. Holds one page at a time.
 *
 * @throws HadalError HADAL_ERR_DATA for a column that is missing or not of strings and for a damaged file, HADAL_ERR_IO
 */
export async function* readParquetColumn(path: string, column: string): AsyncGenerator<ColumnValue> {
  const file = await withFileErrors(`read ${path}`, () => open(path));
  try {
    await zstd.init();
    const { size } = await file.stat();
    const bytes = new BoundedFile(file, path, size);
    const metadata = await readMetadata(bytes);
    const isOptional = requireStrings(metadata, column, path);
    let row = 0;
    for (const [i, group] of metadata.row_groups.entries()) {
      const chunk = group.columns.find(({ meta_data }) => meta_data?.path_in_schema?.join('.') === column);
      const what = `row group ${i + 1} of ${path}`;
      if (chunk?.meta_data === undefined || chunk.file_path) throw damaged(what, 'without that column in this file');
      const rows = Number(group.num_rows);
      let rowsRead = 0;
      for await (const { value, count } of readChunk(bytes, chunk.meta_data, isOptional, what)) {
        rowsRead += count;
        if (rowsRead > rows) throw damaged(what, `more than its ${rows} rows`);
        if (value === null) row += count;
        else for (let n = 0; n < count; n++) yield { bytes: value, row: ++row };
      }
      if (rowsRead !== rows) throw damaged(what, `${rowsRead} of ${rows} rows`);
    }
  } catch (error) {
    throw asDamaged(error, path); // a damaged file's fields may be of any type
  } finally {
    await file.close();
  }
}

/** Reads that never leave the file. */
class BoundedFile {
  constructor(
    private readonly handle: FileHandle,
    readonly path: string,
    readonly size: number,
  ) {}

  async read(begin: number, length: number): Promise<Uint8Array> {
    const isInside = Number.isSafeInteger(begin) && begin >= 0 && length >= 0 && begin + length <= this.size;
    if (!isInside) throw damaged(this.path, `${length} bytes at ${begin} of a file of ${this.size}`);
    const bytes = new Uint8Array(length);
    await withFileErrors(`read ${this.path}`, async () => {
      for (let done = 0; done < length; ) {
        const { bytesRead } = await this.handle.read(bytes, done, length - done, begin + done);
        if (bytesRead === 0) throw damaged(this.path, 'an end while it was read');
        done += bytesRead;
      }
    });
    return bytes;
  }
}

async function readMetadata(file: BoundedFile): Promise<FileMetaData> {
  const { path, size } = file;
  if (size < 12) throw damaged(path, `a file of ${size} bytes`);
  const tail = Buffer.from(await file.read(size - 8, 8));
  const magic = tail.toString('latin1', 4);
  if (magic !== 'PAR1') throw damaged(path, magic === 'PARE' ? 'an encrypted file' : 'another ending');
  const length = tail.readUInt32LE(0);
  if (length > Math.min(size - 12, maxFooterBytes)) throw damaged(path, `a footer of ${length} bytes`);
  const footer = await file.read(size - 8 - length, length + 8);
  return parsed(path, () => {
    endOfThriftStruct(footer.subarray(0, length), 0);
    return parquetMetadata(footer, { geoparquet: false });
  });
}

/** Whether the column may hold nulls. @throws HadalError HADAL_ERR_DATA when it is no column of strings */
function requireStrings({ schema }: FileMetaData, column: string, path: string): boolean {
  const names: string[] = [];
  let found: FileMetaData['schema'][number] | undefined;
  // The schema is a tree written in preorder; after its root come the columns, each followed by its children.
  for (let i = 1; i < schema.length; ) {
    const element = schema[i] as FileMetaData['schema'][number];
    if (element.name === column) found ??= element;
    names.push(element.name);
    let end = i + 1;
    for (let open = element.num_children ?? 0; open > 0 && end < schema.length; open--)
      open += Math.max(0, schema[end++]?.num_children ?? 0);
    i = end;
  }
  const there = `there are ${names.slice(0, 20).join(', ')}${names.length > 20 ? ', …' : ''}; name one with textField`;
  if (found === undefined) throw dataError(`a column '${column}' in ${path}`, `none; ${there}`);
  if (found.num_children) throw dataError(`texts in column '${column}' of ${path}`, `a nested column; ${there}`);
  if (found.type !== 'BYTE_ARRAY' || found.repetition_type === 'REPEATED')
    throw dataError(
      `texts in column '${column}' of ${path}`,
      `${found.repetition_type === 'REPEATED' ? 'lists' : found.type}; ${there}`,
    );
  return found.repetition_type !== 'REQUIRED';
}

async function* readChunk(file: BoundedFile, meta: ColumnMetaData, isOptional: boolean, what: string) {
  const starts = [meta.dictionary_page_offset, meta.data_page_offset].map(Number).filter((offset) => offset > 0);
  let at = Math.min(...starts);
  const end = at + Number(meta.total_compressed_size);
  if (!(end >= at && end <= file.size)) throw damaged(what, `pages from ${at} to ${end} of a file of ${file.size}`);
  const mostTexts = (end - at) * maxTextsPerByte;
  let texts = 0;
  let valuesLeft = Number(meta.num_values);
  let dictionary: Uint8Array[] | undefined;
  while (at < end && valuesLeft > 0) {
    const { header, bytes } = await readHeader(file, at, end, what);
    const stored = await file.read(at + bytes, sizeOf(header.compressed_page_size, end - at - bytes, what));
    at += bytes + stored.length;
    if (header.crc !== undefined && crc32(stored) !== Number(header.crc) >>> 0) throw damaged(what, 'another checksum');
    if (header.type === 'DICTIONARY_PAGE') {
      dictionary = parsed(what, () => {
        const page = decompressed(stored, header.uncompressed_page_size, meta.codec, what);
        return readDictionary(page, header.dictionary_page_header?.num_values ?? 0);
      });
      continue;
    }
    const layout = layoutOf(header, isOptional);
    if (layout === undefined) continue; // a page that holds no values
    const runs = readPageValues(pageOf(stored, header, meta, layout.levelBytes, what), layout, isOptional, dictionary);
    for (let run = parsed(what, () => runs.next()); !run.done; run = parsed(what, () => runs.next())) {
      if (run.value.value !== null) texts += run.value.count;
      if (texts > mostTexts) throw damaged(what, `more than ${mostTexts} texts in ${end - at} bytes`);
      yield run.value;
    }
    valuesLeft -= layout.values;
  }
}

/** Begin with little: a header is small unless it carries statistics of long texts. */
const headerBytes = 1024;

async function readHeader(file: BoundedFile, at: number, end: number, what: string) {
  for (let length = headerBytes; ; length *= 16) {
    const bytes = await file.read(at, Math.min(length, end - at));
    try {
      const headerEnd = endOfThriftStruct(bytes, 0);
      const view = new DataView(bytes.buffer, 0, headerEnd);
      return { header: parsed(what, () => parquetHeader({ view, offset: 0 })), bytes: headerEnd };
    } catch (error) {
      if (!(error instanceof RangeError) || bytes.length === end - at) throw asDamaged(error, what);
    }
  }
}

function sizeOf(claimed: number, most: number, what: string): number {
  if (Number.isSafeInteger(claimed) && claimed >= 0 && claimed <= most) return claimed;
  throw damaged(what, `a page of ${claimed} bytes where there are ${most}`);
}

interface Layout {
  readonly encoding: string;
  readonly values: number;
  readonly levelBytes: number | undefined;
}

function layoutOf(
  { type, data_page_header: v1, data_page_header_v2: v2 }: PageHeader,
  isOptional: boolean,
): Layout | undefined {
  if (type === 'DATA_PAGE' && v1)
    return { encoding: v1.encoding, values: Number(v1.num_values), levelBytes: undefined };
  if (type === 'DATA_PAGE_V2' && v2)
    return {
      encoding: v2.encoding,
      values: Number(v2.num_values),
      levelBytes: isOptional ? v2.definition_levels_byte_length : 0,
    };
  return undefined;
}

/** A data page's bytes, uncompressed: levels (which version 2 leaves uncompressed), then values. */
function pageOf(
  stored: Uint8Array,
  header: PageHeader,
  { codec }: ColumnMetaData,
  levelBytes: number | undefined,
  what: string,
): Uint8Array {
  if (levelBytes === undefined) return decompressed(stored, header.uncompressed_page_size, codec, what);
  if (header.data_page_header_v2?.is_compressed === false) return stored;
  sizeOf(levelBytes, stored.length, what);
  const values = stored.subarray(levelBytes);
  const page = decompressed(values, header.uncompressed_page_size - levelBytes, codec, what);
  return Buffer.concat([stored.subarray(0, levelBytes), page]);
}

function decompressed(bytes: Uint8Array, length: number, codec: string, what: string): Uint8Array {
  const known = codecs[codec];
  if (known === undefined) throw dataError(`${what} compressed by ${Object.keys(codecs).join(', ')}`, codec);
  sizeOf(length, Math.min(maxPageBytes, bytes.length * known.ratio + 64), what);
  if (length === 0) return new Uint8Array();
  const page = parsed(what, () => known.run(bytes, length));
  if (page.length !== length) throw damaged(what, `a page of ${page.length} bytes instead of ${length}`);
  return page;
}

/** Runs a parser; whatever it throws means that the file is damaged. */
function parsed<T>(what: string, run: () => T): T {
  try {
    return run();
  } catch (error) {
    throw asDamaged(error, what);
  }
}

function asDamaged(error: unknown, what: string): HadalError {
  return error instanceof HadalError ? error : damaged(what, (error as Error).message, error);
}

function damaged(what: string, got: string, cause?: unknown): HadalError {
  const message = `[parquet] expected a whole Parquet file, got ${got} in ${what}; get or write the file anew`;
  return new HadalError('HADAL_ERR_DATA', message, { cause });
}

function dataError(expected: string, got: string): HadalError {
  return new HadalError('HADAL_ERR_DATA', `[parquet] expected ${expected}, got ${got}`);
}
