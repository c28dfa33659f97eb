import { HadalError } from '../core/errors.js';
import { runLaunch, withoutOption } from './run-launch.js';

/**
 * Runs this command in several processes of this host, for one that no launcher started.
 *
 * @param nproc - of `--nproc`
 * @param command - what it is called, for the message
 * @throws HadalError HADAL_ERR_USAGE without `nproc`
 */
export async function inProcesses(nproc: number | undefined, command: string): Promise<void> {
  if (nproc === undefined) {
    throw new HadalError(
      'HADAL_ERR_USAGE',
      `[${command.split(' ')[0]}] expected several processes, got one; start them by hadal launch --nproc 2 -- ${command}, or give --nproc 2`,
    );
  }
  const words = withoutOption(process.argv.slice(2), '--nproc');
  await runLaunch(words, { nproc, maxRestarts: 0, heartbeatTimeout: 10 }, [words[0] as string]);
}
