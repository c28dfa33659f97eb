// Where the messages of a chat come from: questions on a terminal, or the lines of a pipe.
import { createInterface, type Interface } from 'node:readline';
import { HadalError } from '../core/errors.js';
import { parseJson } from '../core/json.js';

/** The streams of a chat; those of the process unless a test gives others. */
export interface ChatStreams {
  stdin: NodeJS.ReadStream;
  stdout: NodeJS.WriteStream;
  stderr: NodeJS.WriteStream;
}

/** One line of what was typed or piped, understood. */
export type Input =
  | { kind: 'message' | 'system'; text: string }
  | { kind: 'reset' | 'exit' | 'help' | 'nothing' }
  | { kind: 'unknown'; text: string };

/** Understands a line. A path such as /etc/hosts is a message. @throws HadalError HADAL_ERR_DATA for JSON that is no message */
export function parseInput(line: string): Input {
  const text = line.trim();
  if (text === '') return { kind: 'nothing' };
  const [, command, rest = ''] = /^\/([a-z]+)(?:\s+(.*))?$/s.exec(text) ?? [];
  if (command === undefined) return /^[{"]/.test(text) ? parseMessage(text) : { kind: 'message', text };
  if (command === 'system') return { kind: 'system', text: rest };
  if (command === 'reset' || command === 'exit' || command === 'help') return { kind: command };
  return { kind: 'unknown', text: `/${command}` };
}

function parseMessage(text: string): Input {
  const value = parseJson(text, { part: 'chat', what: 'a line', code: 'HADAL_ERR_DATA' });
  const { role = 'user', content } = (typeof value === 'string' ? { content: value } : value) as Record<
    string,
    unknown
  >;
  if (typeof content === 'string' && role === 'user') return { kind: 'message', text: content };
  if (typeof content === 'string' && role === 'system') return { kind: 'system', text: content };
  throw new HadalError(
    'HADAL_ERR_DATA',
    `[chat] expected a line like {"role": "user", "content": "Hi"}, got ${text.slice(0, 80)}`,
  );
}

/** The lines of a stream that is no terminal. */
export function pipedLines(stdin: NodeJS.ReadableStream, signal: AbortSignal): AsyncIterable<string> {
  return createInterface({ input: stdin, crlfDelay: Number.POSITIVE_INFINITY, signal });
}

const doubleMs = 500;
/** Lines that come faster were pasted. */
const pasteMs = 30;

/** The lines that come together; null when none does before the end. */
function gathered(lines: Interface): Promise<string | null> {
  return new Promise((resolve) => {
    const found: string[] = [];
    let timer: NodeJS.Timeout | undefined;
    lines.once('close', () => resolve(found.length > 0 ? found.join('\n') : null));
    lines.on('line', (line) => {
      found.push(line);
      clearTimeout(timer);
      timer = setTimeout(() => lines.close(), pasteMs);
    });
  });
}

/** A terminal that is asked for lines, with the history of those before. */
export class Terminal implements Disposable {
  #history: string[] = [];
  /** What was pasted behind the last line end. */
  #rest = '';
  #onInterrupt: (() => void) | null = null;
  #interruptMs = Number.NEGATIVE_INFINITY;

  constructor(private readonly streams: Pick<ChatStreams, 'stdin' | 'stdout'>) {
    process.on('SIGINT', this.#interrupt);
  }

  /** Two within half a second are one: `npm run` hands on a Ctrl-C that the terminal has sent to us as well. */
  #interrupt = (): void => {
    const now = performance.now();
    const isEcho = now - this.#interruptMs < doubleMs;
    this.#interruptMs = now;
    if (!isEcho) this.#onInterrupt?.();
  };

  /** Asks for a line, or several pasted at once. @returns null for Ctrl-C and Ctrl-D */
  async ask(query: string): Promise<string | null> {
    // While an answer is written there is no interface, so that the terminal is in its usual mode.
    const lines = createInterface({
      input: this.streams.stdin,
      output: this.streams.stdout,
      terminal: true,
      history: this.#history,
    });
    lines.on('history', (history) => {
      this.#history = [...history];
    });
    lines.on('SIGINT', this.#interrupt);
    this.#onInterrupt = () => lines.close();
    lines.setPrompt(query);
    lines.prompt();
    lines.write(this.#rest);
    try {
      return await gathered(lines);
    } finally {
      this.#rest = lines.line;
      this.#onInterrupt = null;
      lines.close();
    }
  }

  /** Ctrl-C aborts the work; a second one, should the first not be heard, ends the process. */
  async interruptible<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const controller = new AbortController();
    this.#onInterrupt = () => (controller.signal.aborted ? process.exit(130) : controller.abort());
    try {
      return await work(controller.signal);
    } finally {
      this.#onInterrupt = null;
    }
  }

  [Symbol.dispose](): void {
    process.off('SIGINT', this.#interrupt);
  }
}
