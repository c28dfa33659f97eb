#!/usr/bin/env node
// The command line. A command's file describes it; what it does is loaded when it is called, so that --help is quick.
import { readFileSync } from 'node:fs';
import { Command } from 'commander';
import { registerBench } from './bench.js';
import { registerDoctor } from './doctor.js';
import { exitStatusOf, report } from './errors.js';
import { registerGenerate } from './generate.js';
import { registerInspect } from './inspect.js';
import { registerTokenizer } from './tokenizer.js';
import { registerTrain } from './train.js';

function makeProgram(): Command {
  const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
    version: string;
  };
  const program = new Command('hadal')
    .description('Train DeepSeek-class language models.')
    .version(version)
    .exitOverride()
    // Errors are reported in one place, errors.ts.
    .configureOutput({ outputError: () => {} })
    .addHelpText(
      'after',
      '\nExample:\n  $ hadal train --preset test --out runs/first\n\nExit status: 0 done, 1 the run failed, 2 wrong usage or configuration, 3 damaged input, 130 interrupted.',
    );
  for (const register of [
    registerTrain,
    registerGenerate,
    registerInspect,
    registerTokenizer,
    registerBench,
    registerDoctor,
  ]) {
    register(program);
  }
  return program;
}

// A reader that has seen enough (`hadal … | head`) is no error.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(0);
  throw error;
});

try {
  await makeProgram().parseAsync();
} catch (error) {
  report(error, process.argv.includes('--json'));
  process.exitCode = exitStatusOf(error);
}
