// Texts of the files that `hadal init` writes.
import { stringify } from 'yaml';
import { HadalError } from '../core/errors.js';
import { parseJson } from '../core/json.js';
import type { InitFlags } from './init.js';
import { type PresetName, presets } from './presets/presets.js';

/** What a new project is made of. */
export interface Project {
  name: string;
  preset: PresetName;
  format: NonNullable<InitFlags['format']>;
  sources: readonly string[];
  hasSample: boolean;
}

const schemaPath = 'node_modules/hadal/docs/config.schema.json';

/** The configuration, with a remark to each field where the format has remarks. */
export function configText(project: Project): string {
  const { name, preset, format, sources, hasSample } = project;
  const { steps } = presets[preset]();
  const half = Math.ceil(steps / 2);
  const fields: [remark: string, key: string, value: unknown][] = [
    ['The model and the rates of a whole run; what follows goes over it.', 'preset', preset],
    [`Run directories are runs/${name}-1, runs/${name}-2, …`, 'name', name],
    [
      'Files, folders and globs of txt, md, jsonl, csv, parquet; a share of the documents is held out to evaluate on.',
      'data',
      { sources, heldOut: hasSample ? 0.2 : 0.05 },
    ],
    ['Updates of the whole run.', 'steps', steps],
    ['Updates between evaluations, and between checkpoints.', 'evaluation', { every: half }],
    ['', 'checkpoint', { every: half }],
  ];
  const remarked = (sign: string, indent: string, line: (key: string, value: unknown) => string): string[] =>
    fields.flatMap(([remark, key, value]) => [...(remark ? [`${indent}${sign} ${remark}`] : []), line(key, value)]);
  switch (format) {
    case 'ts':
      return [
        "import { defineConfig } from 'hadal';",
        '',
        '// Every option with its default: node_modules/hadal/docs/configuration.md',
        'export default defineConfig({',
        ...remarked('//', '  ', (key, value) => `  ${key}: ${literal(value)},`),
        '});',
        '',
      ].join('\n');
    case 'yaml':
      return [
        `# yaml-language-server: $schema=${schemaPath}`,
        '# Every option with its default: node_modules/hadal/docs/configuration.md',
        ...remarked('#', '', (key, value) => stringify({ [key]: value }).trimEnd()),
        '',
      ].join('\n');
    case 'json': {
      const values = fields.map(([, key, value]) => [key, value]);
      return `${JSON.stringify({ $schema: `./${schemaPath}`, ...Object.fromEntries(values) }, null, 2)}\n`;
    }
  }
}

/** A value as TypeScript. */
function literal(value: unknown): string {
  if (typeof value === 'string')
    return `'${JSON.stringify(value).slice(1, -1).replaceAll('\\"', '"').replaceAll("'", "\\'")}'`;
  if (Array.isArray(value)) return `[${value.map(literal).join(', ')}]`;
  if (typeof value !== 'object' || value === null) return String(value);
  return `{ ${Object.entries(value)
    .map(([key, inner]) => `${key}: ${literal(inner)}`)
    .join(', ')} }`;
}

const scripts = { train: 'hadal train', resume: 'hadal train --resume' };

/**
 * A package.json with our scripts; everything that was there stays as it was.
 *
 * @param manifest - the text that is there; null: none
 * @returns also the names of scripts that were there with other contents
 * @throws HadalError HADAL_ERR_CONFIG when it is not the text of a package.json
 */
export function withScripts(manifest: string | null, name: string): { text: string; kept: string[] } {
  if (manifest === null) {
    const fresh = { name: name.toLowerCase().replace(/^[._]+/, '') || 'model', private: true, type: 'module', scripts };
    return { text: `${JSON.stringify(fresh, null, 2)}\n`, kept: [] };
  }
  const fields = parseJson(manifest, { part: 'init', what: 'package.json', code: 'HADAL_ERR_CONFIG' });
  if (!isObject(fields) || !(fields.scripts === undefined || isObject(fields.scripts))) {
    throw new HadalError(
      'HADAL_ERR_CONFIG',
      '[init] expected package.json to hold an object with scripts, got another',
    );
  }
  const theirs = fields.scripts ?? {};
  const kept = Object.entries(scripts).flatMap(([key, command]) => ((theirs[key] ?? command) === command ? [] : [key]));
  const indent = /^[ \t]+(?=")/m.exec(manifest)?.[0] ?? '  ';
  const text = JSON.stringify({ ...fields, scripts: { ...theirs, ...scripts, ...theirs } }, null, indent);
  return { text: manifest.endsWith('\n') ? `${text}\n` : text, kept };
}

/** Whether .js and .ts files beside that package.json are ES modules. */
export function isModulePackage(manifest: string): boolean {
  return (JSON.parse(manifest) as { type?: unknown }).type === 'module';
}

const isObject = (value: unknown): value is Record<string, unknown> & { scripts?: Record<string, unknown> } =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

const ignored = ['node_modules/', 'runs/', '.hadal/'];

/** A .gitignore that also names what runs write. */
export function withIgnored(text: string | null): string {
  const bare = (line: string): string => line.trim().replaceAll(/^\/|\/$/g, '');
  const lines = new Set((text ?? '').split('\n').map(bare));
  const missing = ignored.filter((line) => !lines.has(bare(line)));
  const start = text === null || text === '' || text.endsWith('\n') ? (text ?? '') : `${text}\n`;
  return start + missing.map((line) => `${line}\n`).join('');
}
