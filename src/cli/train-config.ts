// A run's configuration from its parts: preset, file, flags, --set, each over the ones before.
import { existsSync, readdirSync } from 'node:fs';
import { basename, extname, join } from 'node:path';
import { HadalError } from '../core/errors.js';
import { resolveTrainConfig, type TrainConfig } from '../train/config.js';
import { configName, findConfigFile, readConfigFile } from './config-file.js';
import { sourcesOf } from './data-flags.js';
import { presets } from './presets/presets.js';
import type { TrainFlags } from './train.js';

type Fields = Record<string, unknown>;

/**
 * The configuration that the flags ask for, checked.
 *
 * @param onFound - told the configuration file that was taken without being named
 * @throws HadalError HADAL_ERR_USAGE, HADAL_ERR_CONFIG, HADAL_ERR_IO
 */
export async function trainConfigFrom(flags: TrainFlags, onFound?: (file: string) => void): Promise<TrainConfig> {
  const { path, isFound } = configPathOf(flags);
  if (path !== null && isFound) onFound?.(path);
  const { $schema, preset: presetOfFile, name, ...fields } = path === null ? {} : await readConfigFile(path);
  const preset = flags.preset ?? presetOfFile ?? (path === null ? 'shallow' : undefined);
  const said = [fieldsOf(flags), ...(flags.set ?? []).map(assigned)].reduce(merged, {});
  const config = [preset ? presets[preset]() : {}, fields, said].reduce<Fields>(merged, {});
  config.out ??= defaultRunDirectory(name ?? flags.preset ?? nameOf(path) ?? 'shallow', config.resume === true);
  const { sources } = (config.data ?? {}) as { sources?: unknown };
  if (preset && Array.isArray(sources) && sources.length === 0) {
    throw usageError(`data for preset '${preset}'`, 'none', 'name files or directories with --data');
  }
  return resolveTrainConfig(config, (field) => (has(said, field) ? 'command line' : (path ?? 'config')));
}

/** The file that is named, or that of the run that goes on, or `hadal.config.*` where no preset is named. */
function configPathOf({ config, preset, out, resume }: TrainFlags): { path: string | null; isFound: boolean } {
  if (config !== undefined) return { path: config, isFound: false };
  if (preset) return { path: null, isFound: false };
  const earlier = join(out ?? '', 'config.json');
  if (resume && out !== undefined && existsSync(earlier)) return { path: earlier, isFound: false };
  return { path: findConfigFile('.'), isFound: true };
}

/** Name of the runs of a configuration file. */
function nameOf(path: string | null): string | null {
  const name = path && basename(path, extname(path));
  return name === configName ? 'run' : name;
}

/** What the flags say; what they leave out is undefined, which says nothing. */
function fieldsOf(flags: TrainFlags): Fields {
  const { steps, seed, dtype, device, threads, pinThreads, out, resume, checkpointEvery } = flags;
  const { model, data, dataWeight, textField, debugNumerics } = flags;
  const sources = data === undefined && dataWeight === undefined ? undefined : sourcesOf(flags);
  return {
    ...{ steps, seed, dtype, device, threads, pinThreads, out, resume },
    model: model === undefined ? undefined : { directory: model },
    data: { sources, textField },
    checkpoint: { every: checkpointEvery },
    watch: { debugNumerics },
  };
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

/** Objects are merged, everything else that is said is replaced; so is a model that says what it is, as a whole. */
function merged(base: Fields, over: Fields): Fields {
  // Not by assignment: a key `__proto__` must be met by the schema, not vanish.
  const result = new Map(Object.entries(base));
  for (const [key, value] of Object.entries(over)) {
    if (value === undefined) continue;
    const before = result.get(key);
    const isWhole = key === 'model' && isFields(value) && (value.directory !== undefined || isWholeModel(value.config));
    result.set(key, isFields(value) && isFields(before) && !isWhole ? merged(before, value) : value);
  }
  return Object.fromEntries(result);
}

function has(fields: Fields, path: readonly string[]): boolean {
  const inner = path.reduce<unknown>(
    (at, key) => (isFields(at) && Object.hasOwn(at, key) ? at[key] : undefined),
    fields,
  );
  return inner !== undefined;
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
