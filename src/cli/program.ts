import { Command } from 'commander';
import { version } from '../core/version.js';
import { registerBench } from './bench.js';
import { registerChat } from './chat.js';
import { registerCheckpoint } from './checkpoint.js';
import { registerCompletion } from './completion.js';
import { registerCudaSelftest } from './cuda-selftest.js';
import { registerDoctor } from './doctor.js';
import { registerGenerate } from './generate.js';
import { registerInit } from './init.js';
import { registerInspect } from './inspect.js';
import { registerLaunch } from './launch.js';
import { registerPrepare } from './prepare.js';
import { registerTokenizer } from './tokenizer.js';
import { registerTrain } from './train.js';

/** Every command, in the order --help lists them. A command's file describes it and loads what it does when called. */
const commands = [
  registerInit,
  registerTrain,
  registerLaunch,
  registerPrepare,
  registerGenerate,
  registerChat,
  registerInspect,
  registerTokenizer,
  registerCheckpoint,
  registerBench,
  registerDoctor,
  registerCudaSelftest,
  registerCompletion,
];

/** The command line as a tree; `main.ts` runs it, completions and the reference page are made from it. */
export function makeProgram(): Command {
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
  for (const register of commands) register(program);
  return program;
}
