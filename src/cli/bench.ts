import type { Command } from 'commander';
import { type CommonFlags, described, oneOf, wholeNumber } from './output.js';

/** Flags of `hadal bench step`. */
export interface BenchStepFlags extends CommonFlags {
  config: string;
  batch: number;
  seq: number;
  dtype: 'fp32' | 'bf16';
  threads?: number;
  steps: number;
  warmup: number;
  seed: number;
}

/** `hadal bench step`. */
export function registerBench(program: Command): void {
  const group = program.command('bench').description('Measure.');
  described(group.command('step'), 'Speed of training steps (AdamW, clipping) on random tokens.', [
    'bench step --config config.json --batch 8 --seq 256 --threads 2 --steps 10 --json',
  ])
    .requiredOption('--config <file>', 'config.json of a model')
    .option('--batch <n>', 'rows a step', wholeNumber(1), 8)
    .option('--seq <n>', 'tokens a row', wholeNumber(2), 256)
    .option('--dtype <name>', 'number format of the computation', oneOf(['fp32', 'bf16']), 'fp32')
    .option('--threads <n>', "threads (default: the machine's processors)", wholeNumber(1))
    .option('--steps <n>', 'steps that are timed', wholeNumber(1), 10)
    .option('--warmup <n>', 'steps before them', wholeNumber(0), 2)
    .option('--seed <n>', 'seed of weights and tokens', wholeNumber(0), 0)
    .action(async (flags: BenchStepFlags) => {
      const { benchStep } = await import('./run-bench-step.js');
      await benchStep(flags);
    });
}
