// Configuration files: which one, what it says, and where in it a field stands.
import { readdirSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { extname } from 'node:path';
import { type Document, isAlias, isMap, isScalar, isSeq, Lexer, LineCounter, parseDocument } from 'yaml';
import { HadalError } from '../core/errors.js';
import { shown } from '../core/expectation.js';
import { parseJson } from '../core/json.js';
import { problemLines, problemsOf } from '../core/problems.js';
import { withFileErrors } from '../formats/file-error.js';
import type { ConfigFile } from './config-options.js';
import { configFileSchema } from './config-schema.js';
import { importConfig } from './import-config.js';

const endings = ['.ts', '.mts', '.mjs', '.js', '.json', '.yaml', '.yml'];

/** Base name of the configuration that is found without being named. */
export const configName = 'hadal.config';

/**
 * The `hadal.config.*` of a directory, null where there is none.
 *
 * @throws HadalError HADAL_ERR_CONFIG where there are several
 */
export function findConfigFile(directory: string): string | null {
  const names = new Set(readdirSync(directory));
  const [first, second] = endings.map((ending) => configName + ending).filter((name) => names.has(name));
  if (second === undefined) return first ?? null;
  throw new HadalError(
    'HADAL_ERR_CONFIG',
    `[config] expected one ${configName} file, got ${first} and ${second}; remove one, or name one with --config`,
  );
}

/**
 * Reads a configuration file by its ending, and checks it.
 *
 * @throws HadalError HADAL_ERR_IO, HADAL_ERR_USAGE for another ending, HADAL_ERR_CONFIG with a line for each field that
 * is wrong, as `file:line:column` in YAML and JSON
 */
export async function readConfigFile(path: string): Promise<ConfigFile> {
  const { value, place } = await contentsOf(path);
  const { error } = configFileSchema.safeParse(value);
  if (!error) return value as ConfigFile;
  throw new HadalError('HADAL_ERR_CONFIG', problemLines(problemsOf(configFileSchema, error, value), place));
}

// Far more than any run needs: the reader of YAML takes seconds for what is large, and ends the process on brackets that
// are nested by the thousand.
const mostCharacters = 1 << 15;
const mostLevels = 64;

interface Contents {
  value: unknown;
  /** `file:line:column` of a field, or of what is nearest to it. */
  place: (path: readonly string[]) => string;
}

async function contentsOf(path: string): Promise<Contents> {
  const ending = extname(path);
  if (!endings.includes(ending)) {
    throw new HadalError(
      'HADAL_ERR_USAGE',
      `[cli] expected a configuration that ends in .yaml, .json, .mjs, .js or .ts, got ${path}; rename it`,
    );
  }
  const text = await withFileErrors(`read ${path}`, () => readFile(path, 'utf8'));
  if (text.length > mostCharacters) {
    throw new HadalError(
      'HADAL_ERR_CONFIG',
      `[config] expected at most ${mostCharacters} characters in ${path}, got ${text.length}`,
    );
  }
  if (ending === '.json') {
    const value = parseJson(text, { part: 'config', what: path, code: 'HADAL_ERR_CONFIG' });
    // JSON is YAML, and the reader of YAML knows where things stand.
    return { value, place: placesIn(path, text).place };
  }
  return ending === '.yaml' || ending === '.yml'
    ? parseYaml(path, text)
    : { value: await importConfig(path), place: () => path };
}

function parseYaml(path: string, text: string): Contents {
  const fail = (where: string, found: string, cause?: unknown): HadalError =>
    new HadalError('HADAL_ERR_CONFIG', `[config] expected valid YAML in ${where}, got ${found}`, { cause });
  if (isNestedDeeply(text)) throw fail(path, `more than ${mostLevels} levels of nesting`);
  const { document, place } = placesIn(path, text);
  const [error] = document.errors;
  if (error) {
    const [at] = error.linePos ?? [];
    throw fail(at ? `${path}:${at.line}:${at.col}` : path, shown(error.message.split(' at line ')[0]), error);
  }
  try {
    const value: unknown = document.toJS();
    JSON.stringify(value); // an anchor within itself is no configuration
    return { value, place };
  } catch (error) {
    throw fail(path, (error as Error).message.split('\n')[0] ?? '', error);
  }
}

/** Counts brackets, and dashes and question marks in a line; indentation cannot go deep in so short a text. */
function isNestedDeeply(text: string): boolean {
  let brackets = 0;
  let marks = 0;
  for (const token of new Lexer().lex(text)) {
    if (token === '[' || token === '{') brackets++;
    else if (token === ']' || token === '}') brackets--;
    else if (token === '-' || token === '?') marks++;
    else if (token.endsWith('\n')) marks = 0;
    if (brackets + marks > mostLevels) return true;
  }
  return false;
}

function placesIn(path: string, text: string): { document: Document; place: Contents['place'] } {
  const lineCounter = new LineCounter();
  const document: Document = parseDocument(text, { lineCounter, logLevel: 'error' });
  const place = (fields: readonly string[]): string => {
    const offset = offsetOf(document, fields);
    if (offset === undefined) return path;
    const { line, col } = lineCounter.linePos(offset);
    return `${path}:${line}:${col}`;
  };
  return { document, place };
}

/** Offset of the key of a field, or of the last one on the way to it. */
function offsetOf(document: Document, fields: readonly string[]): number | undefined {
  let node: unknown = document.contents;
  let offset: number | undefined;
  for (const field of fields) {
    if (isAlias(node)) node = node.resolve(document);
    if (isMap(node)) {
      const pair = node.items.find(({ key }) => String(isScalar(key) ? key.value : key) === field);
      if (!pair) break;
      if (isScalar(pair.key)) offset = pair.key.range?.[0];
      node = pair.value;
    } else if (isSeq(node)) {
      node = node.items[Number(field)];
      offset = (node as { range?: [number] } | undefined)?.range?.[0] ?? offset;
    } else break;
  }
  return offset;
}
