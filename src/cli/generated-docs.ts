import { commandPage } from './command-reference.js';
import { configJsonSchema, configPage } from './config-reference.js';
import { makeProgram } from './program.js';

/** Files below docs/ that are made from the code, by name; `npm run docs:generate` writes them. */
export function generatedDocs(): Record<string, string> {
  return {
    'configuration.md': configPage(),
    'config.schema.json': `${JSON.stringify(configJsonSchema(), null, 2)}\n`,
    'command-line.md': commandPage(makeProgram()),
  };
}
