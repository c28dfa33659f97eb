// A run's configuration from its parts: preset, file, flags, --set, each over the ones before.
import { existsSync, readdirSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { basename, extname, join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { HadalError } from '../core/errors.js';
import { parseJson } from '../core/json.js';
import { withFileErrors } from '../formats/file-error.js';
import { resolveTrainConfig, type TrainConfig } from '../train/config.js';
import { presets } from './presets/presets.js';
import type { TrainFlags } from './train.js';

type Fields = Record<string, unknown>;

/**
 * The configuration that the flags ask for, checked.
 *
 * @throws HadalError HADAL_ERR_USAGE, HADAL_ERR_CONFIG, HADAL_ERR_IO
 */
export async function trainConfigFrom(flags: TrainFlags): Promise<TrainConfig> {
  const { file, preset } = whatToStartFrom(flags);
  let config: Fields = preset ? { ...presets[preset]() } : {};
  if (file) config = merged(config, await readConfigFile(file));
  config = merged(config, fieldsOf(flags));
  for (const assignment of flags.set ?? []) config = merged(config, assigned(assignment));
  config.out ??= defaultRunDirectory(preset ?? basename(file ?? 'run', extname(file ?? '')), flags.resume ?? false);
  const { sources } = (config.data ?? {}) as { sources?: unknown };
  if (preset && Array.isArray(sources) && sources.length === 0) {
    throw usageError(`data for preset '${preset}'`, 'none', 'name files or directories with --data');
  }
  return resolveTrainConfig(config, file ?? 'config');
}

/** A run that goes on has its configuration in its directory; without any, there is the default preset. */
function whatToStartFrom({ config, preset, out, resume }: TrainFlags): {
  file?: string;
  preset?: keyof typeof presets;
} {
  if (config !== undefined) return preset ? { file: config, preset } : { file: config };
  const earlier = out && join(out, 'config.json');
  if (resume && !preset && earlier && existsSync(earlier)) return { file: earlier };
  return { preset: preset ?? 'shallow' };
}

function fieldsOf(flags: TrainFlags): Fields {
  const { steps, seed, dtype, device, threads, out, resume, checkpointEvery } = flags;
  const plain = Object.entries({ steps, seed, dtype, device, threads, out }).filter(([, value]) => value !== undefined);
  return {
    ...Object.fromEntries(plain),
    resume: resume ?? false,
    ...(flags.model === undefined ? {} : { model: { directory: flags.model } }),
    ...(flags.data === undefined ? {} : { data: { sources: flags.data } }),
    ...(checkpointEvery === undefined ? {} : { checkpoint: { every: checkpointEvery } }),
  };
}

/** Reads a configuration file by its ending. @throws HadalError HADAL_ERR_IO, HADAL_ERR_CONFIG */
async function readConfigFile(path: string): Promise<Fields> {
  const fields = await readers(path)();
  if (!isFields(fields)) throw configError(`an object in ${path}`, JSON.stringify(fields)?.slice(0, 40) ?? 'nothing');
  const { $schema, ...config } = fields;
  return config;
}

function readers(path: string): () => Promise<unknown> {
  const text = (): Promise<string> => withFileErrors(`read ${path}`, () => readFile(path, 'utf8'));
  switch (extname(path)) {
    case '.json':
      return async () => parseJson(await text(), { part: 'config', what: path, code: 'HADAL_ERR_CONFIG' });
    case '.yaml':
    case '.yml':
      return async () => parseYaml(await text(), path);
    case '.ts':
    case '.mts':
    case '.mjs':
    case '.js':
      return () => importConfig(path);
    default:
      throw usageError('a configuration that ends in .yaml, .json, .mjs, .js or .ts', path, 'rename it');
  }
}

async function parseYaml(text: string, path: string): Promise<unknown> {
  const { parse } = await import('yaml');
  try {
    return parse(text);
  } catch (error) {
    throw configError(`valid YAML in ${path}`, (error as Error).message.split('\n')[0] ?? '', error);
  }
}

async function importConfig(path: string): Promise<unknown> {
  await withFileErrors(`read ${path}`, () => readFile(path));
  let module: { default?: unknown; config?: unknown };
  try {
    module = await import(pathToFileURL(resolve(path)).href);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ERR_UNKNOWN_FILE_EXTENSION') {
      throw configError(
        `a file that Node ${process.versions.node} reads`,
        `${path} (Node reads .ts from 22.18 on; .mjs, .json and .yaml always)`,
        error,
      );
    }
    throw configError(`${path} to load`, (error as Error).message.split('\n')[0] ?? '', error);
  }
  return module.default ?? module.config;
}

/** `path=value`: the value is JSON where it parses as such, else text. */
function assigned(assignment: string): Fields {
  const at = assignment.indexOf('=');
  const path = assignment.slice(0, at).split('.');
  if (at < 1 || path.some((key) => key === ''))
    throw usageError('--set path=value', `'${assignment}'`, 'for example --set optimizer.lr=3e-4');
  const text = assignment.slice(at + 1);
  let value: unknown = text;
  try {
    value = JSON.parse(text);
  } catch {
    // It is text, then.
  }
  return path.reduceRight<unknown>((inner, key) => Object.fromEntries([[key, inner]]), value) as Fields;
}

/** Objects are merged, everything else is replaced; so is a model that says what it is, as a whole. */
function merged(base: Fields, over: Fields): Fields {
  // Not by assignment: a key `__proto__` must be met by the schema, not vanish.
  const result = new Map(Object.entries(base));
  for (const [key, value] of Object.entries(over)) {
    const before = result.get(key);
    const isWhole = key === 'model' && isFields(value) && (value.directory !== undefined || isWholeModel(value.config));
    result.set(key, isFields(value) && isFields(before) && !isWhole ? merged(before, value) : value);
  }
  return Object.fromEntries(result);
}

const isFields = (value: unknown): value is Fields =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

const isWholeModel = (config: unknown): boolean => isFields(config) && Object.hasOwn(config, 'model_type');

/** `runs/<name>-<number>`: the next one, or when resuming the last one. */
function defaultRunDirectory(name: string, resume: boolean): string {
  const taken = existsSync('runs') ? readdirSync('runs') : [];
  const numbers = taken.filter((run) => run.startsWith(`${name}-`)).map((run) => Number(run.slice(name.length + 1)));
  const last = Math.max(0, ...numbers.filter((n) => Number.isInteger(n)));
  return join('runs', `${name}-${resume && last > 0 ? last : last + 1}`);
}

function usageError(expected: string, got: string, fix: string): HadalError {
  return new HadalError('HADAL_ERR_USAGE', `[cli] expected ${expected}, got ${got}; ${fix}`);
}

function configError(expected: string, got: string, cause?: unknown): HadalError {
  return new HadalError('HADAL_ERR_CONFIG', `[config] expected ${expected}, got ${got}`, { cause });
}
