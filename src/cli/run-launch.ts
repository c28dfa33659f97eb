// `hadal launch`, and `hadal train --nproc`: processes of a command, and their end as the end of this one.
import { fileURLToPath } from 'node:url';
import { HadalError } from '../core/errors.js';
import { usableProcessors } from '../core/processors.js';
import { Launcher } from '../dist/launcher.js';
import { heartbeatSeconds, launchSettings, roundSeconds } from '../dist/launcher-settings.js';
import { ServedLauncher } from '../dist/parameter-server/launcher.js';
import type { LaunchCommandFlags } from './launch.js';
import { printJson } from './output.js';

/**
 * Runs a command in several processes. Their status becomes this process's.
 *
 * @param known - names of hadal's own commands; another first word is a program
 * @throws HadalError HADAL_ERR_USAGE, HADAL_ERR_CONFIG, HADAL_ERR_IO, HADAL_ERR_COMM where they cannot be started
 */
export async function runLaunch(
  command: readonly string[],
  flags: LaunchCommandFlags,
  known: readonly string[],
): Promise<void> {
  const [first = '', ...rest] = command;
  const isOurs = known.includes(first);
  const settings = launchSettings(flags, process.env);
  const { servers, box = 1 } = flags;
  if (settings.processes % box !== 0) {
    throw new HadalError(
      'HADAL_ERR_USAGE',
      `[launch] expected --box to divide --nproc ${settings.processes}, got ${box}`,
    );
  }
  if (servers !== undefined && servers > 1) {
    throw new HadalError(
      'HADAL_ERR_USAGE',
      `[launch] expected --servers 1, got ${servers}; one server has all weights`,
    );
  }
  const options = {
    program: isOurs ? process.execPath : first,
    args: isOurs ? [...process.execArgv, fileURLToPath(new URL('./main.js', import.meta.url)), ...command] : rest,
    env: process.env,
    processors: flags.threads ?? Math.max(1, Math.floor(usableProcessors() / settings.processes)),
    directory: flags.logDir ?? null,
    isRaw: command.includes('--json'),
    write: (line: string, stream: 'out' | 'err') =>
      void (stream === 'out' && !flags.json ? process.stdout : process.stderr).write(`${line}\n`),
  };
  const { processes: workers, nodeRank, rendezvous: address, maxRestarts } = settings;
  const launcher =
    servers === undefined
      ? new Launcher({
          ...settings,
          ...options,
          timing: {
            heartbeatMs: (flags.heartbeatTimeout ?? heartbeatSeconds) * 1000,
            nextRoundMs: (flags.roundTimeout ?? roundSeconds) * 1000,
          },
        })
      : new ServedLauncher({ ...options, workers: workers / box, processes: box, nodeRank, address, maxRestarts });
  const signals = ['SIGINT', 'SIGTERM'] as const;
  for (const signal of signals) process.on(signal, launcher.interrupt.bind(launcher, signal));
  try {
    const { status, message } = await launcher.run();
    if (status !== 0) process.stderr.write(`[launch] ${message}\n`);
    if (flags.json) printJson({ exitStatus: status, message });
    process.exitCode = status;
  } finally {
    for (const signal of signals) process.removeAllListeners(signal);
  }
}

/** `hadal train --nproc`: the same words in so many processes. */
export async function runTrainProcesses(nproc: number, words: readonly string[] = process.argv): Promise<void> {
  const train = withoutOption(words.slice(words.indexOf('train')), '--nproc');
  await runLaunch(train, { nproc }, ['train']);
}

/** The words of a command line without an option and its value. */
export function withoutOption(words: readonly string[], option: string): string[] {
  return words.filter((word, i) => word !== option && !word.startsWith(`${option}=`) && words[i - 1] !== option);
}
