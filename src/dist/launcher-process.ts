// One process that a launcher has started, and what it writes.
import { type ChildProcess, spawn } from 'node:child_process';
import type { Readable } from 'node:stream';

export interface ProcessOptions {
  program: string;
  args: readonly string[];
  env: NodeJS.ProcessEnv;
  /** Whether a terminal's signals do not reach it; default: they do. */
  isDetached?: boolean;
  /** A line that it wrote. */
  onLine(line: string, stream: 'out' | 'err'): void;
  /** It is no more, and all that it wrote has been told. @param status - null: ended by the signal */
  onEnd(status: number | null, signal: string | null): void;
}

/** How long what it wrote is waited for once it is no more: what it started may hold on to its output. */
const drainMs = 1000;

export class LaunchedProcess {
  readonly #child: ChildProcess;
  #hasEnded = false;

  constructor({ program, args, env, isDetached = false, onLine, onEnd }: ProcessOptions) {
    this.#child = spawn(program, args, { env, stdio: ['ignore', 'pipe', 'pipe'], detached: isDetached });
    const flush = [
      lines(this.#child.stdout as Readable, (line) => onLine(line, 'out')),
      lines(this.#child.stderr as Readable, (line) => onLine(line, 'err')),
    ];
    const end = (status: number | null, signal: string | null): void => {
      if (this.#hasEnded) return;
      this.#hasEnded = true;
      for (const last of flush) last();
      onEnd(status, signal);
    };
    this.#child.on('error', (error) => {
      onLine(`hadal: [launch] expected to start '${program}', got: ${error.message}`, 'err');
      end(2, null);
    });
    this.#child.on('close', end);
    this.#child.on('exit', (status, signal) => void setTimeout(() => end(status, signal), drainMs).unref());
  }

  get hasEnded(): boolean {
    return this.#hasEnded;
  }

  kill(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }
}

/** The longest line that is kept together. */
const longest = 2 ** 16;

/** Cuts what comes into lines. @returns what tells the last one, which has no end */
function lines(stream: Readable, onLine: (line: string) => void): () => void {
  let rest = '';
  stream.setEncoding('utf8').on('data', (text: string) => {
    const parts = (rest + text).split('\n');
    rest = parts.pop() as string;
    for (const part of parts) onLine(part);
    if (rest.length > longest) {
      onLine(rest);
      rest = '';
    }
  });
  return () => {
    if (rest !== '') onLine(rest);
    rest = '';
  };
}
