import type { Command } from 'commander';
import type { PrecisionDType } from '../passes/narrow.js';
import { registerBenchComm } from './bench-comm.js';
import { type CommonFlags, described, oneOf, wholeNumber } from './output.js';

/** Flags of `hadal bench step`. */
export interface BenchStepFlags extends CommonFlags {
  config?: string;
  model?: string;
  tokens?: string;
  batch: number;
  seq: number;
  dtype: 'auto' | PrecisionDType;
  device: string;
  threads?: number;
  pinThreads?: boolean;
  steps: number;
  warmup: number;
  seed: number;
  profile?: string;
}

/** `hadal bench`. */
export function registerBench(program: Command): void {
  const group = program.command('bench').description('Measure.');
  described(group.command('step'), 'Speed of training steps (AdamW, clipping) on random tokens.', [
    'bench step --config config.json --batch 8 --seq 256 --threads 2 --steps 10 --json',
    'bench step --config config.json --dtype bf16 --profile trace.json',
  ])
    .option('--config <file>', 'config.json of a model, which starts from random weights')
    .option('--model <path>', 'model directory or .gguf file to start from, in place of --config')
    .option('--tokens <file>', 'token ids to train on, little-endian int32, row after row (default: random)')
    .option('--batch <n>', 'rows a step', wholeNumber(1), 8)
    .option('--seq <n>', 'tokens a row', wholeNumber(2), 256)
    .option(
      '--dtype <name>',
      'number format of the computation',
      oneOf(['auto', 'fp32', 'bf16', 'fp16', 'fp8']),
      'fp32',
    )
    .option('--device <name>', 'cpu, cuda, cuda:<number> or cuda-sim', 'cpu')
    .option('--threads <n>', 'threads (default: the processors that the process may use)', wholeNumber(1))
    .option('--pin-threads', 'bind each of them to a processor of its own (Linux)')
    .option('--steps <n>', 'steps that are timed', wholeNumber(1), 10)
    .option('--warmup <n>', 'steps before them', wholeNumber(0), 2)
    .option('--seed <n>', 'seed of weights and tokens', wholeNumber(0), 0)
    .option('--profile <file>', 'one step more, whose trace for chrome://tracing and Perfetto goes there')
    .action(async (flags: BenchStepFlags) => {
      const { benchStep } = await import('./run-bench-step.js');
      await benchStep(flags);
    });
  registerBenchComm(group);
}
