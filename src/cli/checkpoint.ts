import type { Command } from 'commander';
import { type CommonFlags, described, wholeNumber } from './output.js';

/** Flags of `hadal checkpoint prune`. */
export interface PruneFlags extends CommonFlags {
  keep?: number;
  best?: number;
  dryRun?: boolean;
}

/** `hadal checkpoint ls`, `verify`, `prune`. */
export function registerCheckpoint(program: Command): void {
  const group = program.command('checkpoint').description('List, check or thin out the checkpoints of a run.');
  described(group.command('ls'), 'Checkpoints of a run: size, age, held-out loss, and why each is kept.', [
    'checkpoint ls runs/shallow-1',
  ])
    .argument('<run>', 'run directory')
    .action(async (run: string, { json = false }: CommonFlags) => {
      const { runList } = await import('./run-checkpoint.js');
      await runList(run, json);
    });
  described(
    group.command('verify'),
    'Read checkpoints whole and compare them with their checksums; exit status 3 when one is damaged.',
    ['checkpoint verify runs/shallow-1', 'checkpoint verify runs/shallow-1/checkpoints/step-00000400 --json'],
  )
    .argument('<path>', 'run directory, or a checkpoint')
    .action(async (path: string, { json = false }: CommonFlags) => {
      const { runVerify } = await import('./run-checkpoint.js');
      await runVerify(path, json);
    });
  described(group.command('prune'), 'Delete all checkpoints of a run but the newest and the best.', [
    'checkpoint prune runs/shallow-1 --keep 1 --best 1 --dry-run',
    'checkpoint prune runs/shallow-1 --keep 1',
  ])
    .argument('<run>', 'run directory, in which nothing trains')
    .option('--keep <n>', "newest ones that stay (default: the run's checkpoint.keep)", wholeNumber(1))
    .option('--best <k>', "of the others, so many of the lowest held-out loss (default: the run's)", wholeNumber(0))
    .option('--dry-run', 'say what would be deleted, and delete nothing')
    .action(async (run: string, flags: PruneFlags) => {
      const { runPrune } = await import('./run-checkpoint.js');
      await runPrune(run, flags);
    });
}
