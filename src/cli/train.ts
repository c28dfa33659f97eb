import type { Command } from 'commander';
import { type DataFlags, withDataFlags } from './data-flags.js';
import { type CommonFlags, collect, described, oneOf, wholeNumber } from './output.js';
import { type PresetName, presetSummaries, presets } from './presets/presets.js';

/** Flags of `hadal train`. */
export interface TrainFlags extends CommonFlags, DataFlags {
  config?: string;
  set?: string[];
  preset?: PresetName;
  model?: string;
  out?: string;
  resume?: boolean;
  steps?: number;
  checkpointEvery?: number;
  seed?: number;
  dtype?: string;
  device?: string;
  threads?: number;
  pinThreads?: boolean;
  profile?: string;
  debugNumerics?: boolean;
  nproc?: number;
}

/** `hadal train`. */
export function registerTrain(program: Command): void {
  const summaries = Object.entries(presetSummaries).map(([name, summary]) => `  ${name.padEnd(18)}${summary}`);
  const command = described(
    program.command('train'),
    'Train a model: a preset, a configuration, or both with flags over them.',
    [
      'train',
      'train --preset shallow --data notes/ stories.jsonl.gz --steps 1000 --out runs/mine',
      'train --config run.yaml --set optimizer.lr=3e-4 --set model.config.num_hidden_layers=6',
      'train --out runs/mine --resume',
    ],
  );
  withDataFlags(command, ', or one folder that prepare made')
    .option(
      '--preset <name>',
      'a whole run by name; see below (default: shallow, where there is no configuration)',
      oneOf(Object.keys(presets) as PresetName[]),
    )
    .option('--config <file>', 'configuration: .ts, .mjs, .js, .json or .yaml (default: hadal.config.* of this folder)')
    .option('--set <path=value>', 'set one field, for example optimizer.lr=3e-4; may be repeated', collect)
    .option('--model <path>', 'start from the weights of a checkpoint, another Hugging Face directory or a .gguf file')
    .option('--out <dir>', 'run directory (default: runs/<name>-<number>)')
    .option('--resume', 'continue what is in the run directory, or start when there is nothing')
    .option('--steps <n>', 'updates of the whole run', wholeNumber(1))
    .option('--checkpoint-every <n>', 'updates between checkpoints; 0: only at the end', wholeNumber(0))
    .option('--seed <n>', 'seed of weights and data order', wholeNumber(0))
    .option('--dtype <name>', 'number format of the computation: auto, fp32 or bf16')
    .option('--device <name>', 'auto, cpu, cuda, cuda:<number> or cuda-sim')
    .option('--threads <n>', 'threads of the computation', wholeNumber(1))
    .option('--pin-threads', 'bind each of them to a processor of its own (Linux)')
    .option(
      '--debug-numerics',
      'when a number is not finite: name the op and layer that made it, write a report into the run directory, and end',
    )
    .option('--profile <file>', "where one step's time goes: a trace for chrome://tracing and Perfetto, and tables")
    .option('--nproc <n>', 'train in so many processes of this host; hadal launch can do more', wholeNumber(1))
    .addHelpText('after', `\nPresets:\n${summaries.join('\n')}`)
    .action(async (flags: TrainFlags) => {
      if (flags.nproc !== undefined) {
        const { runTrainProcesses } = await import('./run-launch.js');
        await runTrainProcesses(flags.nproc);
        return;
      }
      const { runTrain } = await import('./run-train.js');
      await runTrain(flags);
    });
}
