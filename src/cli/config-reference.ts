// The published JSON schema of configuration files, and the reference page, both from the zod schemas.
import { trainSchema } from '../train/config.js';
import { configFileSchema } from './config-schema.js';
import { jsonSchemaOf, type JsonSchema as Schema } from './json-schema.js';
import { presetSummaries } from './presets/presets.js';

/** The JSON schema of a configuration file, for editors and other validators. */
export function configJsonSchema(): Schema {
  const schema = jsonSchemaOf(configFileSchema);
  return { ...schema, title: 'Configuration of a hadal training run' };
}

/** The reference page of all options, as Markdown. */
export function configPage(): string {
  const { properties = {} } = configJsonSchema();
  const required = requiredPaths(jsonSchemaOf(trainSchema));
  const sections = Object.entries(properties).filter(([, schema]) => isObject(schema) && fieldsOf(schema).length > 0);
  const whole = Object.entries(properties).filter(([name]) => !sections.some(([section]) => section === name));
  const table = (fields: readonly Field[]): string[] => [
    '| field | type | default | allowed | meaning |',
    '| --- | --- | --- | --- | --- |',
    ...fields.map(({ path, schema }) => {
      const missing = required.has(path) ? '*required*' : '';
      const { default: value, description = '' } = schema;
      const cells = [code(path), typeOf(schema), value === undefined ? missing : code(JSON.stringify(value))];
      return `| ${[...cells, limitsOf(schema), description].map(cell).join(' | ')} |`;
    }),
    '',
  ];
  return [
    ...introduction(),
    '## The run',
    '',
    ...table(whole.map(([path, schema]) => ({ path, schema: schema as Schema }))),
    ...sections.flatMap(([name, schema]) => [
      `## ${code(name)}`,
      '',
      (schema as Schema).description ?? '',
      '',
      ...table(fieldsOf(schema, name)),
    ]),
  ].join('\n');
}

interface Field {
  path: string;
  schema: Schema;
}

/** The fields below a schema, those of alternatives and of lists' items among them. */
function fieldsOf(schema: unknown, path = ''): Field[] {
  if (!isObject(schema)) return [];
  const inner = path === '' ? '' : `${path}.`;
  return [
    ...Object.entries(schema.properties ?? {}).flatMap(([name, field]) => [
      { path: inner + name, schema: field as Schema },
      ...fieldsOf(field, inner + name),
    ]),
    ...(schema.anyOf ?? []).flatMap((option) => fieldsOf(option, path)),
    ...fieldsOf(schema.items, `${path}[]`),
  ];
}

/** Paths of what has neither a default nor may be left out. */
function requiredPaths(schema: Schema, path = ''): Set<string> {
  return new Set(
    (schema.required ?? []).flatMap((name) => {
      const full = path + name;
      const field = schema.properties?.[name];
      return [full, ...(isObject(field) ? requiredPaths(field, `${full}.`) : [])];
    }),
  );
}

function typeOf(schema: Schema): string {
  const { type, anyOf, items, enum: values } = schema;
  if (values) return values.map((value) => code(JSON.stringify(value))).join(' or ');
  if (anyOf) return [...new Set(anyOf.map((option) => typeOf(option as Schema)))].join(' or ');
  if (Array.isArray(type)) return type.map((one) => typeNames[one] ?? one).join(' or ');
  if (type === 'array') return `list of ${isObject(items) ? typeOf(items) : 'anything'}`;
  return typeNames[type ?? ''] ?? 'anything';
}

const typeNames: Record<string, string> = {
  integer: 'whole number',
  number: 'number',
  string: 'text',
  boolean: '`true` or `false`',
  null: '`null`',
  object: 'object',
};

function limitsOf({ minimum, maximum, exclusiveMinimum, exclusiveMaximum, minItems, pattern, anyOf }: Schema): string {
  const limits = [
    exclusiveMinimum === undefined ? null : `> ${exclusiveMinimum}`,
    minimum === undefined ? null : `≥ ${minimum}`,
    exclusiveMaximum === undefined ? null : `< ${exclusiveMaximum}`,
    maximum === undefined ? null : maximum === 2 ** 31 - 1 ? '< 2³¹' : `≤ ${maximum}`,
    minItems === undefined ? null : `at least ${minItems} item`,
    pattern === undefined ? null : code(pattern),
    ...(anyOf ?? []).map((option) => limitsOf(option as Schema)),
  ];
  return limits.filter(Boolean).join(', ');
}

const isObject = (value: unknown): value is Schema => typeof value === 'object' && value !== null;

const code = (text: string): string => `\`${text}\``;

/** Text as it may stand in a cell of a table. */
function cell(text: string): string {
  const parts = text.split(/(`[^`]*`)/);
  return parts
    .map((part) => (part.startsWith('`') ? part : part.replaceAll('<', '&lt;')))
    .join('')
    .replaceAll('|', '\\|');
}

function introduction(): string[] {
  return [
    '<!-- Made by `npm run docs:generate` from the schemas in src/. -->',
    '',
    '# Configuration',
    '',
    'What a run is comes from four places, each over the ones before: a **preset** (`--preset`, or `preset` in the file), a',
    '**file**, **flags** (`--steps 200`), and **`--set path=value`** (`--set optimizer.lr=3e-4`). Objects are merged field by',
    'field; lists are replaced; so is a model that names its `model_type`.',
    '',
    '`hadal train` takes the file that `--config` names, else `hadal.config.ts`, `.mts`, `.mjs`, `.js`, `.json`, `.yaml` or',
    '`.yml` of the folder it runs in (`hadal init` writes one; `--preset` leaves it aside), else preset `shallow`. A run that',
    'goes on (`--out runs/mine-1 --resume`) has its configuration with it. Paths are relative to the folder of the command.',
    '',
    '```ts',
    '// hadal.config.ts; Node reads it from 22.18 on, before, with `typescript` 5 or 6 in the project',
    "import { defineConfig } from 'hadal';",
    '',
    'export default defineConfig({',
    "  preset: 'shallow',",
    "  name: 'tales',",
    "  data: { sources: ['data/*.jsonl'] },",
    '  steps: 1000,',
    '  optimizer: { lr: 2e-3 },',
    '});',
    '```',
    '',
    "`defineConfig(({ presets }) => ({ ...presets.shallow(), steps: 1000 }))` builds on a preset's values.",
    '',
    '```yaml',
    '# yaml-language-server: $schema=node_modules/hadal/docs/config.schema.json',
    'preset: shallow',
    'name: tales',
    'data:',
    '  sources: [data/*.jsonl]',
    'steps: 1000',
    '```',
    '',
    'The JSON schema is published with the package (`hadal/config.schema.json`): editors that know it complete and check YAML',
    'and JSON, where `$schema` names it:',
    '',
    '```json',
    '{ "$schema": "./node_modules/hadal/docs/config.schema.json", "preset": "shallow", "steps": 1000 }',
    '```',
    '',
    'A name that is unknown is refused with the nearest known one, a value that cannot be with what was expected, as',
    '`run.yaml:12:3` where the file has lines; up to five problems at once, with exit status 2.',
    '',
    '## Presets',
    '',
    '| preset | what it is |',
    '| --- | --- |',
    ...Object.entries(presetSummaries).map(([name, summary]) => `| ${code(name)} | ${cell(summary)} |`),
    '',
  ];
}
