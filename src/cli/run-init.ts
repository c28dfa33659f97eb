// `hadal init`: what is wanted, the files it takes, and what to do with them.
import { existsSync, readdirSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { basename, isAbsolute, join, relative, resolve, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { HadalError } from '../core/errors.js';
import { writeFileAtomic } from '../formats/atomic-file.js';
import { withFileErrors } from '../formats/file-error.js';
import { configName } from './config-file.js';
import { canReadTypeScript } from './import-config.js';
import type { InitFlags } from './init.js';
import { configText, isModulePackage, type Project, withIgnored, withScripts } from './init-files.js';
import { sampleText } from './init-sample.js';
import { quoted } from './invocation.js';
import { printJson, printLine } from './output.js';

/** Data that are named, not files. */
const namedSources = ['sotu', 'synthetic'];
const samplePath = 'data/sample.jsonl';

/**
 * Writes the files of a project, all of them or none.
 *
 * @throws HadalError HADAL_ERR_USAGE where files would be overwritten, HADAL_ERR_CONFIG for a package.json that is none,
 * HADAL_ERR_IO, HADAL_ERR_ABORTED
 */
export async function runInit(dir: string, flags: InitFlags): Promise<void> {
  const asks = !flags.yes && !flags.json && process.stdin.isTTY && process.stdout.isTTY;
  const folderName =
    basename(resolve(dir))
      .replaceAll(/[^\w.-]+/g, '-')
      .replace(/^\W+/, '') || 'model';
  const given = asks ? await (await import('./ask-init.js')).askInit(flags, folderName) : flags;
  const project: Project = {
    name: given.name ?? folderName,
    preset: given.preset ?? (given.data ? 'shallow' : 'test'),
    format: given.format ?? 'ts',
    // Paths in the configuration are relative to its folder.
    sources: given.data?.map((path) => fromFolder(dir, path)) ?? [samplePath],
    hasSample: !given.data,
  };
  if (!/^\w[\w.-]*$/.test(project.name)) {
    throw usageError('a --name of letters, digits, dots and dashes', `'${project.name}'`);
  }

  const manifest = await textOf(join(dir, 'package.json'));
  const { text: packageText, kept } = withScripts(manifest, project.name);
  const ending = project.format === 'ts' && !isModulePackage(packageText) ? 'mts' : project.format;
  const config = `${configName}.${ending}`;
  const created = { [config]: configText(project), ...(project.hasSample ? { [samplePath]: sampleText() } : {}) };
  await withFileErrors(`read ${dir}`, async () => refuseConflicts(dir, config, created, flags.force ?? false));
  const ignored = withIgnored(await textOf(join(dir, '.gitignore')));
  const files = { ...created, 'package.json': packageText, '.gitignore': ignored };
  for (const [name, text] of Object.entries(files)) await writeFileAtomic(join(dir, name), text);

  const next = nextSteps(dir, project, kept.includes('train'));
  if (flags.json) printJson({ dir, files: Object.keys(files), kept, next });
  else for (const line of summary(dir, Object.keys(files), kept, next)) printLine(line);
}

function refuseConflicts(dir: string, config: string, created: Record<string, string>, force: boolean): void {
  const there = existsSync(dir) ? readdirSync(dir) : [];
  const otherConfig = there.find((name) => name.startsWith(`${configName}.`) && name !== config);
  if (otherConfig) {
    throw usageError(`${dir} without a configuration`, otherConfig, 'remove it, or choose another folder');
  }
  const taken = Object.keys(created).filter((name) => existsSync(join(dir, name)));
  if (taken.length > 0 && !force) {
    throw usageError(
      `${dir} without ${taken.join(' and ')}`,
      'what is there',
      '--force overwrites, or choose another folder',
    );
  }
}

/** What is left to do, as a shell takes it. */
function nextSteps(dir: string, { format }: Project, isTrainTaken: boolean): string[] {
  const file = join(resolve(dir), 'package.json');
  const root = fileURLToPath(new URL('../..', import.meta.url));
  const source = root.includes(`${sep}node_modules${sep}`) ? 'hadal' : quoted(resolve(root));
  return [
    ...(relative('.', dir) === '' ? [] : [`cd ${quoted(dir)}`]),
    ...(canResolve(file, 'hadal/package.json') ? [] : [`npm install ${source}`]),
    ...(format !== 'ts' || canReadTypeScript(file) ? [] : ['npm install --save-dev typescript@6']),
    isTrainTaken ? 'npx hadal train' : 'npm run train',
  ];
}

function summary(dir: string, files: readonly string[], kept: readonly string[], next: readonly string[]): string[] {
  return [
    ...files.map((name) => `wrote  ${join(dir, name)}`),
    ...(kept.length > 0 ? [`kept   scripts of package.json that were there: ${kept.join(', ')}`] : []),
    ...next.map((line, i) => `${i === 0 ? 'next ' : '     '}  ${line}`),
  ];
}

function canResolve(file: string, name: string): boolean {
  try {
    createRequire(file).resolve(name);
    return true;
  } catch {
    return false;
  }
}

function fromFolder(dir: string, path: string): string {
  if (isAbsolute(path) || namedSources.includes(path)) return path;
  return relative(dir, path).split(sep).join('/') || '.';
}

async function textOf(path: string): Promise<string | null> {
  return existsSync(path) ? withFileErrors(`read ${path}`, () => readFile(path, 'utf8')) : null;
}

function usageError(expected: string, got: string, fix?: string): HadalError {
  return new HadalError('HADAL_ERR_USAGE', `[init] expected ${expected}, got ${got}${fix ? `; ${fix}` : ''}`);
}
