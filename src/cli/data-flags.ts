// Flags that name data, the same wherever they are taken.
import { type Command, InvalidArgumentError } from 'commander';
import { HadalError } from '../core/errors.js';
import type { DataSource } from '../data/data-config.js';

/** What the flags give. */
export interface DataFlags {
  data?: string[];
  dataWeight?: number[];
  textField?: string;
}

/** Adds `--data`, `--data-weight` and `--text-field`. */
export function withDataFlags(command: Command, more = ''): Command {
  return command
    .option(
      '--data <path...>',
      `files, folders or quoted globs of .txt, .md, .jsonl, .csv, .tsv (each also .gz) or .parquet${more}; or sotu, synthetic`,
    )
    .option(
      '--data-weight <n...>',
      "a number for each --data: its share of the training rows, relative to the others' (default: by size)",
      collectWeights,
    )
    .option('--text-field <name>', 'field of a JSON line, or column of a table, that holds the text (default: text)');
}

/** The sources that the flags name, each with its weight. @throws HadalError HADAL_ERR_USAGE */
export function sourcesOf({ data = [], dataWeight }: DataFlags): DataSource[] {
  if (dataWeight === undefined) return data;
  if (dataWeight.length === data.length) return data.map((path, i) => ({ path, weight: dataWeight[i] }));
  throw new HadalError(
    'HADAL_ERR_USAGE',
    `[cli] expected a --data-weight for each of ${data.length} --data, got ${dataWeight.length}; quote globs, so that each is one`,
  );
}

function collectWeights(text: string, before: number[] = []): number[] {
  const weight = Number(text);
  if (text.trim() !== '' && weight > 0 && weight <= 1e9) return [...before, weight];
  throw new InvalidArgumentError('Expected a number above 0.');
}
