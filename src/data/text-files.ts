// Documents of text files, read in chunks: txt and md, JSON lines, comma- or tab-separated values.
import { isUtf8 } from 'node:buffer';
import { createReadStream } from 'node:fs';
import { pipeline, Readable, type Transform } from 'node:stream';
import { createGunzip } from 'node:zlib';
import { HadalError } from '../core/errors.js';
import { parseJson } from '../core/json.js';
import { fileError } from '../formats/file-error.js';

/** One text, and where a person finds it: `file:line`, or the like. */
export interface TextPart {
  readonly text: string;
  readonly id: string;
}

/** A file to read as text. */
export interface TextFile {
  readonly path: string;
  readonly gzip: boolean;
  /** Told of each U+FFFD that stands for bytes that are not UTF-8; without it such bytes are an error. */
  readonly onInvalid?: (() => void) | undefined;
}

/** Cuts a file at blank lines into pieces of about `pieceChars`; a file of less than two of them is one piece. */
export async function* readText(file: TextFile, pieceChars: number): AsyncGenerator<TextPart> {
  let rest = '';
  let piece = 0;
  const next = (end: number): TextPart => {
    const text = rest.slice(0, end);
    rest = rest.slice(end);
    return { text, id: `${file.path}#${piece++}` };
  };
  for await (const text of readUtf8(file)) {
    rest += text;
    for (let end = pieceEnd(rest, pieceChars); end !== undefined; end = pieceEnd(rest, pieceChars)) yield next(end);
  }
  yield next(rest.length);
}

/** Where to cut: after a blank line, else after a line, else anywhere that leaves surrogate pairs whole. */
function pieceEnd(text: string, pieceChars: number): number | undefined {
  if (text.length < 2 * pieceChars) return undefined;
  for (const border of ['\n\n', '\n', ' ']) {
    const at = text.indexOf(border, pieceChars);
    if (at >= 0 && at + border.length < 2 * pieceChars) return at + border.length;
  }
  const end = Math.floor(pieceChars);
  return (text.charCodeAt(end - 1) & 0xfc00) === 0xd800 ? end + 1 : end;
}

const maxLineChars = 2 ** 26;

/** A document a line: the string `field` of its object. Blank lines are left out. */
export async function* readJsonLines(file: TextFile, field: string): AsyncGenerator<TextPart> {
  let begun: string[] = [];
  let chars = 0;
  let line = 0;
  const parse = (end: string): TextPart | undefined => {
    const text = begun.length === 0 ? end : begun.join('') + end;
    begun = [];
    chars = 0;
    line++;
    return text.trim() === '' ? undefined : parseLine(text, `${file.path}:${line}`, field);
  };
  for await (const chunk of readUtf8(file)) {
    let start = 0;
    for (let end = chunk.indexOf('\n'); end >= 0; end = chunk.indexOf('\n', start)) {
      const document = parse(chunk.slice(start, end));
      if (document !== undefined) yield document;
      start = end + 1;
    }
    begun.push(chunk.slice(start));
    chars += chunk.length - start;
    if (chars > maxLineChars)
      throw dataError('lines of less than 2^26 characters', `a longer one, ${file.path}:${line + 1}`, 'split it');
  }
  const last = parse('');
  if (last !== undefined) yield last;
}

function parseLine(line: string, id: string, field: string): TextPart {
  const value = parseJson(line, { part: 'data', what: id, code: 'HADAL_ERR_DATA' });
  const text = typeof value === 'object' && value !== null ? (value as Record<string, unknown>)[field] : undefined;
  if (typeof text === 'string') return { text, id };
  const names = typeof value === 'object' && value !== null && !Array.isArray(value) ? Object.keys(value) : [];
  const got = names.length > 0 ? `fields ${listed(names)}` : JSON.stringify(value).slice(0, 80);
  throw dataError(`an object with a string '${field}' in ${id}`, got, 'name the field with textField (--text-field)');
}

/**
 * A document a row: the column `field`, which the header row names. RFC 4180: quoted fields may hold separators, quotes
 * written twice and line ends.
 */
export async function* readTable(file: TextFile, field: string, separator: ',' | '\t'): AsyncGenerator<TextPart> {
  const { CsvError, parse } = await import('csv-parse');
  const parser = parse({
    bom: true,
    delimiter: separator,
    info: true,
    max_record_size: maxLineChars,
    // Tab-separated files often have quotes that quote nothing.
    relax_quotes: separator === '\t',
    skip_empty_lines: true,
    columns: (header: string[]) => {
      if (!header.includes(field)) {
        const expected = `a column '${field}' in the first row of ${file.path}`;
        throw dataError(expected, listed(header), 'name one with textField (--text-field)');
      }
      return header.map((name) => (name === field ? name : false));
    },
  });
  pipeline(Readable.from(readUtf8(file)), parser, () => {}); // errors surface on the parser
  try {
    for await (const { record, info } of parser as AsyncIterable<{
      record: Record<string, string>;
      info: { lines: number };
    }>) {
      yield { text: record[field] ?? '', id: `${file.path}:${info.lines}` };
    }
  } catch (error) {
    if (!(error instanceof CsvError)) throw error;
    const where = `${file.path}:${(error as unknown as { lines?: number }).lines ?? 1}`;
    throw dataError(
      `rows of ${separator === ',' ? 'comma' : 'tab'}-separated values in ${where}`,
      error.message,
      'mend it',
    );
  } finally {
    parser.destroy();
  }
}

/** A file's text in chunks, without byte-order mark. @throws HadalError HADAL_ERR_DATA that names the line, HADAL_ERR_IO */
async function* readUtf8({ path, gzip, onInvalid }: TextFile): AsyncGenerator<string> {
  const decoder = new TextDecoder('utf-8', { fatal: onInvalid === undefined });
  const file = createReadStream(path, { highWaterMark: 1 << 18 });
  const chunks = gzip ? gunzipped(file) : file;
  let line = 1;
  try {
    for await (const chunk of chunks as AsyncIterable<Buffer>) {
      yield decoded(
        () => decoder.decode(chunk, { stream: true }),
        () => firstInvalidLine(chunk, line),
      );
      for (let at = chunk.indexOf(10); at >= 0; at = chunk.indexOf(10, at + 1)) line++;
    }
    yield decoded(
      () => decoder.decode(),
      () => line,
    );
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code?.startsWith('Z_'))
      throw dataError(
        `whole gzip data in ${path}`,
        `${(error as Error).message} after line ${line}`,
        'get the file anew',
      );
    throw fileError(error, `read ${path}`);
  } finally {
    chunks.destroy();
  }

  function decoded(decode: () => string, where: () => number): string {
    let text: string;
    try {
      text = decode();
    } catch {
      throw dataError(
        `UTF-8 in ${path}:${where()}`,
        'other bytes',
        "convert the file (iconv -t UTF-8), or set data.invalidUtf8 to 'replace'",
      );
    }
    if (onInvalid) for (let at = text.indexOf('\ufffd'); at >= 0; at = text.indexOf('\ufffd', at + 1)) onInvalid();
    return text;
  }
}

/** The first line, counted from `line`, that is not UTF-8. The chunk's own first line may begin within a character. */
function firstInvalidLine(chunk: Buffer, line: number): number {
  let start = 0;
  while (start < 3 && ((chunk[start] ?? 0) & 0xc0) === 0x80) start++;
  for (let at = line; ; at++) {
    const end = chunk.indexOf(10, start);
    if (end < 0 || !isUtf8(chunk.subarray(start, end))) return at;
    start = end + 1;
  }
}

/** `pipe` that carries errors and ends of either stream to the other. */
function gunzipped(source: Readable): Transform {
  const transform = createGunzip({ chunkSize: 1 << 18 });
  pipeline(source, transform, () => {}); // errors surface on the transform
  return transform;
}

/** Names as a message shows them. */
function listed(names: readonly string[]): string {
  return `${names.slice(0, 20).join(', ').slice(0, 200)}${names.length > 20 ? ', …' : ''}`;
}

/** An error of the data's part. */
export function dataError(expected: string, got: string, fix: string): HadalError {
  return new HadalError('HADAL_ERR_DATA', `[data] expected ${expected}, got ${got}; ${fix}`);
}
