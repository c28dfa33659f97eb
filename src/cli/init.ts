import type { Command } from 'commander';
import { type CommonFlags, described, oneOf } from './output.js';
import { type PresetName, presets } from './presets/presets.js';

/** Kinds of configuration files that `hadal init` writes. */
export const configFormats = ['ts', 'yaml', 'json'] as const;

/** Flags of `hadal init`. */
export interface InitFlags extends CommonFlags {
  preset?: PresetName;
  data?: string[];
  name?: string;
  format?: (typeof configFormats)[number];
  yes?: boolean;
  force?: boolean;
}

/** `hadal init`. */
export function registerInit(program: Command): void {
  described(program.command('init'), 'Begin a project: a configuration, a sample of data, npm scripts.', [
    'init',
    'init my-model --preset shallow --data "texts/*.jsonl" --yes',
  ])
    .argument('[dir]', 'where; made where it is missing', '.')
    .option(
      '--preset <name>',
      'run to start from (default: shallow with --data, else test)',
      oneOf(Object.keys(presets) as PresetName[]),
    )
    .option('--data <path...>', 'files, folders or globs of text (default: a small sample is written)')
    .option('--name <name>', "name of the runs (default: the folder's)")
    .option('--format <kind>', `configuration as ${configFormats.join(', ')} (default: ts)`, oneOf(configFormats))
    .option('--yes', 'ask nothing: defaults for what no flag says')
    .option('--force', 'overwrite the configuration and the sample where they are there')
    .action(async (dir: string, flags: InitFlags) => {
      const { runInit } = await import('./run-init.js');
      await runInit(dir, flags);
    });
}
