import type { Command } from 'commander';
import { type DataFlags, withDataFlags } from './data-flags.js';
import { type CommonFlags, described, numberBetween, oneOf, wholeNumber } from './output.js';

/** Flags of `hadal prepare`. */
export interface PrepareFlags extends CommonFlags, DataFlags {
  tokenizer?: string;
  out?: string;
  heldOut?: number;
  invalidUtf8?: 'error' | 'replace';
  specialTokens?: boolean;
  shardTokens?: number;
  threads?: number;
  show?: number | true;
  seqLen: number;
  seed: number;
}

/** `hadal prepare`. */
export function registerPrepare(program: Command): void {
  const command = described(
    program.command('prepare'),
    'Tokenize data once into shards that train takes, or show packed rows.',
    [
      "prepare --data 'books/**/*.txt' stories.parquet --tokenizer my-tokenizer --out prepared",
      'prepare --data web.jsonl.gz code.jsonl.gz --data-weight 3 1 --tokenizer my-tokenizer --out prepared',
      'train --data prepared --out runs/mine',
      'prepare --data prepared --show 2',
    ],
  );
  withDataFlags(command, ', or with --show a prepared folder')
    .option('--tokenizer <path>', 'tokenizer.json, or a directory with one')
    .option('--out <dir>', 'directory to make; one that was begun is gone on with')
    .option('--held-out <share>', 'share of the documents kept for evaluation (default: 0.05)', numberBetween(0, 0.5))
    .option('--invalid-utf8 <what>', 'error or replace, where bytes are not UTF-8', oneOf(['error', 'replace']))
    .option('--special-tokens', 'names of special tokens within a document become the tokens, not plain text')
    .option('--shard-tokens <n>', 'tokens a shard; a killed call goes on from its last', wholeNumber(1))
    .option('--threads <n>', 'worker threads', wholeNumber(1))
    .option('--show [rows]', 'print packed rows (2 unless given) instead of preparing', wholeNumber(1))
    .option('--seq-len <n>', 'tokens a row of --show', wholeNumber(1), 256)
    .option('--seed <n>', 'seed of the order of --show, as in train', wholeNumber(0), 0)
    .action(async (flags: PrepareFlags) => {
      const { runPrepare } = await import('./run-prepare.js');
      await runPrepare(flags);
    });
}
