import type { Command } from 'commander';
import { type CommonFlags, described } from './output.js';

/** `hadal doctor`. */
export function registerDoctor(program: Command): void {
  described(program.command('doctor'), 'What this machine offers, what is missing, and how to get it.', [
    'doctor',
    'doctor --json',
  ]).action(async ({ json }: CommonFlags) => {
    const { runDoctor } = await import('./run-doctor.js');
    await runDoctor(json ?? false);
  });
}
