import { commandPage } from './command-reference.js';
import { configJsonSchema, configPage } from './config-reference.js';
import { configFileSource, trainOptionsSource } from './option-types.js';
import { makeProgram } from './program.js';

/** Files that are made from the code, by path from the root; `npm run docs:generate` writes them. */
export function generatedFiles(): Record<string, string> {
  return {
    'docs/configuration.md': configPage(),
    'docs/config.schema.json': `${JSON.stringify(configJsonSchema(), null, 2)}\n`,
    'docs/command-line.md': commandPage(makeProgram()),
    'src/train/options.ts': trainOptionsSource(),
    'src/cli/config-options.ts': configFileSource(),
  };
}
