import type { Command } from 'commander';
import { heartbeatSeconds, type LaunchFlags, roundSeconds } from '../dist/launcher-settings.js';
import { type CommonFlags, described, numberBetween, wholeNumber } from './output.js';

/** Flags of `hadal launch`. */
export interface LaunchCommandFlags extends CommonFlags, LaunchFlags {
  heartbeatTimeout?: number;
  roundTimeout?: number;
  threads?: number;
  logDir?: string;
  servers?: number;
  box?: number;
}

/** `hadal launch`. */
export function registerLaunch(program: Command): void {
  described(
    program.command('launch'),
    'Start a command in several processes, on one host or several, and keep it going when one is lost.',
    [
      'launch --nproc 2 -- train --preset shallow --out runs/two',
      'launch --nproc 4 --log-dir logs -- train --config run.yaml',
      'launch --nproc 4 --nnodes 2 --node-rank 0 --rendezvous box0:29500 -- train --config run.yaml',
      'launch --nproc 4 --nnodes 1:4 --node-rank 3 --rendezvous box0:29500 -- train --config run.yaml',
      'launch --nproc 2 -- node my-training.mjs',
      'launch --servers 1 --nproc 3 -- train --config run.yaml --set dist.mode=parameter-server',
    ],
  )
    .argument('<command...>', 'a command of hadal, or a program that calls train(), behind --')
    .option('--nproc <n>', 'processes on this host (default: 1)', wholeNumber(1))
    .option('--nnodes <n>', 'hosts; 1:4: from one to four, which may come and go (default: 1)')
    .option('--node-rank <n>', 'number of this host; 0: the one that --rendezvous names', wholeNumber(0))
    .option('--rendezvous <host:port>', 'where host 0 listens; all hosts need the same HADAL_TOKEN, a secret')
    .option('--max-restarts <n>', 'processes started again over the whole run (default: 3)', wholeNumber(0))
    .option(
      '--min-nproc <n>',
      'processes in all to go on with when restarts are used up (default: all)',
      wholeNumber(1),
    )
    .option(
      '--heartbeat-timeout <seconds>',
      'silence after which a process or host counts as lost',
      numberBetween(0.1, 3600),
      heartbeatSeconds,
    )
    .option(
      '--round-timeout <seconds>',
      'time that the others have, once one is lost, to end their step and begin a new round; who takes longer is replaced, too',
      numberBetween(0.1, 86400),
      roundSeconds,
    )
    .option('--threads <n>', 'processors for each process (default: this host’s, shared)', wholeNumber(1))
    .option('--servers <n>', '1: a server has the weights, the processes are its workers', wholeNumber(1))
    .option('--box <n>', 'with --servers: so many processes are one worker, by all-reduce (default: 1)', wholeNumber(1))
    .option('--log-dir <dir>', 'keep what each process writes in a file of its own, too')
    .addHelpText(
      'after',
      '\nWhat is not given is read from Kubeflow’s (PET_*) and Slurm’s variables. The exit status is that of the processes; usage, configuration and data errors (2, 3) are not tried again.',
    )
    .action(async (command: string[], flags: LaunchCommandFlags) => {
      const { runLaunch } = await import('./run-launch.js');
      await runLaunch(
        command,
        flags,
        program.commands.map((known) => known.name()),
      );
    });
}
