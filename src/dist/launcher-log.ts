// What the processes of a host write: with the rank before each line, and in files.
import { createWriteStream, mkdirSync, type WriteStream } from 'node:fs';
import { join } from 'node:path';
import { HadalError } from '../core/errors.js';

export interface LauncherLogOptions {
  write(line: string, stream: 'out' | 'err'): void;
  /** Where each process's lines are kept, too; null: nowhere. */
  directory: string | null;
  /** What they write to stdout is for machines: no rank before it. */
  isRaw: boolean;
}

export class LauncherLog {
  readonly #options: LauncherLogOptions;
  readonly #files = new Map<string, WriteStream>();
  /** Ends of runs, which each process tells: for those that read, once is enough. */
  readonly #errors = new Map<string, string>();
  readonly #failing = new Set<string>();
  #isMuted = false;

  /** @throws HadalError HADAL_ERR_IO when the directory cannot be made */
  constructor(options: LauncherLogOptions) {
    this.#options = options;
    if (options.directory === null) return;
    try {
      mkdirSync(options.directory, { recursive: true });
    } catch (error) {
      const message = `[launch] expected to make --log-dir ${options.directory}, got: ${(error as Error).message}`;
      throw new HadalError('HADAL_ERR_IO', message, { cause: error });
    }
  }

  /** Of the launcher itself. */
  say(line: string): void {
    this.#options.write(`[launch] ${line}`, 'err');
  }

  /** @param name - of the process, for its file; @param rank - null: it has none yet */
  line(name: string, rank: number | null, line: string, stream: 'out' | 'err'): void {
    this.#file(name)?.write(`${line}\n`);
    if (this.#isMuted || (stream === 'err' && this.#wasTold(name, line))) return;
    const prefix = this.#options.isRaw && stream === 'out' ? '' : `[${rank === null ? name : `rank ${rank}`}] `;
    this.#options.write(prefix + line, stream);
  }

  /** What is written from now on is of processes that are being ended. */
  mute(): void {
    this.#isMuted = true;
  }

  /** Whether another process ended with the same words. */
  #wasTold(name: string, line: string): boolean {
    if (line.startsWith('hadal: ')) this.#failing.add(name);
    if (!this.#failing.has(name)) return false;
    const teller = this.#errors.get(line) ?? name;
    this.#errors.set(line, teller);
    return teller !== name;
  }

  #file(name: string): WriteStream | null {
    const { directory } = this.#options;
    if (directory === null) return null;
    let file = this.#files.get(name);
    if (!file) {
      file = createWriteStream(join(directory, `${name.replaceAll(' ', '-')}.log`), { flags: 'a' });
      // A full disk must not end the run.
      file.on('error', (error) => this.say(`cannot write the log of ${name}: ${error.message}`));
      this.#files.set(name, file);
    }
    return file;
  }
}
