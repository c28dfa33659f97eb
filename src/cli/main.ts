#!/usr/bin/env node
// The command line. Commands are registered in program.ts.
import { exitStatusOf, report } from './errors.js';
import { makeProgram } from './program.js';

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
