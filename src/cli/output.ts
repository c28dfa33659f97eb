import type { Command } from 'commander';
import { InvalidArgumentError } from 'commander';
import { nearest } from '../core/nearest.js';

/** What every command takes. */
export interface CommonFlags {
  json?: boolean;
}

/** Describes a command: text for --help, an example, and --json. */
export function described(command: Command, description: string, examples: readonly string[]): Command {
  const lines = examples.map((example) => `  $ hadal ${example}`).join('\n');
  return command
    .description(description)
    .option('--json', 'results as JSON on stdout, everything else on stderr')
    .addHelpText('after', `\nExample${examples.length > 1 ? 's' : ''}:\n${lines}`);
}

/** One JSON value in a line on stdout. */
export function printJson(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value)}\n`);
}

/** A line on stdout. */
export function printLine(line = ''): void {
  process.stdout.write(`${line}\n`);
}

/** Columns of a table, padded; numbers to the right. The first row is the heading. */
export function tableLines(rows: readonly (readonly string[])[]): string[] {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  return rows.map((row) =>
    row
      .map((cell, column) =>
        column === 0 ? cell.padEnd(widths[0] as number) : cell.padStart(widths[column] as number),
      )
      .join('  ')
      .trimEnd(),
  );
}

/** Parser of an option: a whole number from `least` on. */
export function wholeNumber(least: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() !== '' && Number.isSafeInteger(value) && value >= least) return value;
    throw new InvalidArgumentError(`Expected a whole number from ${least} on.`);
  };
}

/** Parser of an option: one of some names, which completions offer. */
export function oneOf<T extends string>(names: readonly T[]): ((text: string) => T) & { choices: readonly T[] } {
  const parse = (text: string): T => {
    const known = names.find((name) => name === text);
    if (known !== undefined) return known;
    const hint = nearest(text, names);
    throw new InvalidArgumentError(`Expected one of ${names.join(', ')}${hint ? `; did you mean ${hint}?` : '.'}`);
  };
  return Object.assign(parse, { choices: names });
}

/** Parser of an option: a number from `least` to `most`. */
export function numberBetween(least: number, most: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() !== '' && value >= least && value <= most) return value;
    throw new InvalidArgumentError(`Expected a number from ${least} to ${most}.`);
  };
}

/** Parser of an option that may be repeated. */
export function collect(value: string, before: string[] = []): string[] {
  return [...before, value];
}
