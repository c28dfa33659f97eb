import { CommanderError } from 'commander';
import { envFlag } from '../core/env.js';
import { HadalError } from '../core/errors.js';
import { printJson } from './output.js';

/** Status that the process ends with. */
export function exitStatusOf(error: unknown): number {
  if (error instanceof HadalError) return error.exitStatus;
  // Commander ends --help and --version by throwing, too.
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
  return (error as Error | undefined)?.name === 'AbortError' ? 130 : 1;
}

/** Says what went wrong in a line or two on stderr, and as JSON on stdout for those that asked for it. */
export function report(error: unknown, json: boolean): void {
  const status = exitStatusOf(error);
  if (status === 0 || (error instanceof CommanderError && error.code === 'commander.help')) return;
  const message = messageOf(error);
  process.stderr.write(`hadal: ${message}\n`);
  const stack = error instanceof Error ? error.stack : undefined;
  if (envFlag('HADAL_DEBUG') > 0 && stack) process.stderr.write(`${stack}\n${causesOf(error)}`);
  else if (!(error instanceof HadalError || error instanceof CommanderError)) {
    process.stderr.write('This is a bug of hadal; HADAL_DEBUG=1 shows where.\n');
  }
  if (json) printJson({ error: { code: codeOf(error), message, exitStatus: status } });
}

function codeOf(error: unknown): string {
  if (error instanceof HadalError) return error.code;
  return error instanceof CommanderError ? 'HADAL_ERR_USAGE' : 'HADAL_ERR_INTERNAL';
}

function messageOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  if (!(error instanceof CommanderError)) return error.message;
  // "error: unknown option '--stps'\n(Did you mean --steps?)"
  const [what = '', hint] = error.message.replace(/^error: /, '').split('\n');
  return hint ? `${what}; ${hint.replace(/^\((.*)\)$/, '$1').replace(/^D/, 'd')}` : what.replace(/\.$/, '');
}

function causesOf(error: unknown): string {
  const cause = (error as Error).cause;
  return cause instanceof Error ? `caused by ${cause.stack ?? cause.message}\n${causesOf(cause)}` : '';
}
