import type { Command } from 'commander';
import { type CommonFlags, described, oneOf, wholeNumber } from './output.js';

/** What `hadal cuda-selftest` does in processes of its own. */
export const selftestParts = ['kernels', 'benchmarks'] as const;

/** Flags of `hadal cuda-selftest`. */
export interface CudaSelftestFlags extends CommonFlags {
  device: string;
  out?: string;
  part?: (typeof selftestParts)[number];
  from: number;
}

/** `hadal cuda-selftest`. */
export function registerCudaSelftest(program: Command): void {
  described(
    program.command('cuda-selftest'),
    'Whether a GPU computes what the CPU does, and how fast: kernels, twenty steps of training in three number formats, CUDA graphs, microbenchmarks, tokens per second. Takes minutes, asks nothing, keeps what it has when a part fails.',
    ['cuda-selftest --out report', 'cuda-selftest --device cuda-sim --json'],
  )
    .option('--device <name>', 'cuda, cuda:<number> or cuda-sim', 'cuda:0')
    .option('--out <folder>', 'where selftest.json and selftest.md go (default: they are only printed)')
    .option('--part <name>', 'one part alone, as lines of JSON', oneOf(selftestParts))
    .option('--from <number>', 'with --part: how many of its cases to leave out at the beginning', wholeNumber(0), 0)
    .action(async (flags: CudaSelftestFlags) => {
      const { runCudaSelftest } = await import('./run-cuda-selftest.js');
      await runCudaSelftest(flags);
    });
}
