import type { Command } from 'commander';
import { type CommonFlags, described, numberBetween, wholeNumber } from './output.js';

/** Flags of `hadal doctor`. */
export interface DoctorFlags extends CommonFlags {
  comm?: boolean;
  nproc?: number;
  timeout: number;
}

/** `hadal doctor`. */
export function registerDoctor(program: Command): void {
  described(
    program.command('doctor'),
    'What this machine offers, what is missing, and how to get it; or what lies between the processes of a run.',
    ['doctor', 'doctor --json', 'launch --nproc 4 -- doctor --comm', 'doctor --comm --nproc 2'],
  )
    .option(
      '--comm',
      'measure latency and bandwidth between the processes that it is started in, and say which axes of the mesh belong inside a box',
    )
    .option('--nproc <n>', 'with --comm: start so many processes here, where no launcher has', wholeNumber(2))
    .option('--timeout <seconds>', 'with --comm: that a process waits for the others', numberBetween(1, 3600), 60)
    .action(async (flags: DoctorFlags) => {
      if (flags.comm) {
        const { doctorComm } = await import('./run-doctor-comm.js');
        return doctorComm(flags);
      }
      const { runDoctor } = await import('./run-doctor.js');
      await runDoctor(flags.json ?? false);
    });
}
