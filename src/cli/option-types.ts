// Interfaces of the options with a comment for every field, which editors show; from the zod schemas, as the pages are.
import type { z } from 'zod';
import { trainSchema } from '../train/config.js';
import { configFileSchema } from './config-schema.js';
import { type JsonSchema, jsonSchemaOf } from './json-schema.js';

/** src/train/options.ts. */
export const trainOptionsSource = (): string =>
  source('TrainOptions', 'What `train` takes: defaults may be left out.', trainSchema);

/** src/cli/config-options.ts. */
export const configFileSource = (): string =>
  source('ConfigFile', 'A configuration file: the options of a run, and the preset it starts from.', configFileSchema);

function source(name: string, summary: string, schema: z.ZodType): string {
  const body = typeText(jsonSchemaOf(schema));
  return `// Made by \`npm run docs:generate\` from the schemas in src/.\n\n/** ${summary} */\nexport interface ${name} ${body}\n`;
}

function typeText(schema: JsonSchema, indent = ''): string {
  const { type, anyOf, items, enum: values, properties } = schema;
  if (schema.const !== undefined) return `'${schema.const}'`;
  if (values) return values.map((value) => `'${value}'`).join(' | ');
  if (anyOf) return anyOf.map((option) => typeText(option as JsonSchema, indent)).join(' | ');
  if (Array.isArray(type)) return type.map((one) => typeText({ type: one }, indent)).join(' | ');
  if (type === 'array') return `(${typeText(items as JsonSchema, indent)})[]`;
  if (properties) return blockOf(schema, indent);
  return primitives[type ?? ''] ?? 'unknown';
}

const primitives: Record<string, string> = {
  integer: 'number',
  number: 'number',
  string: 'string',
  boolean: 'boolean',
  null: 'null',
  object: 'Record<string, unknown>',
};

function blockOf({ properties = {}, required = [] }: JsonSchema, indent: string): string {
  const inner = `${indent}  `;
  const lines = Object.entries(properties).flatMap(([name, property]) => {
    const field = property as JsonSchema;
    const type = typeText(field, inner);
    const hasDefault = field.default !== undefined && !field.properties;
    const said = [field.description, hasDefault && `Default: ${JSON.stringify(field.default)}.`];
    const comment = said.filter(Boolean).join(' ').replaceAll('*/', '*\\/');
    const isRequired = required.includes(name);
    return [
      ...(comment === '' ? [] : [`${inner}/** ${comment} */`]),
      `${inner}${name}${isRequired ? '' : '?'}: ${type}${isRequired ? '' : ' | undefined'};`,
    ];
  });
  return ['{', ...lines, `${indent}}`].join('\n');
}
