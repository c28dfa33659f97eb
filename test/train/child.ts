// Training in a process of its own, which can be killed. It runs the compiled files.
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { TrainOptions } from '../../src/train/options.js';

const compiled = new URL('../../dist/train/train.js', import.meta.url).href;
const program = `
  import { train } from ${JSON.stringify(compiled)};
  try {
    for await (const { type, step } of train(JSON.parse(process.argv[1]))) {
      console.log(type, step ?? '');
      if (type === process.argv[2]) break;
    }
  } catch (error) {
    console.log('error', error.code, error.message);
    process.exitCode = error.exitStatus ?? 1;
  }`;

/** A process that trains; `lines` are the events it has told so far: type and step. */
export class Child {
  readonly #process;
  readonly lines: string[] = [];
  /** Exit status, or the signal that ended it. */
  readonly ended: Promise<number | string | null>;
  hasEnded = false;

  /** @param lastType - leaves the loop at the first event of this type */
  constructor(options: TrainOptions, lastType = '') {
    const root = fileURLToPath(new URL('../..', import.meta.url));
    const args = ['--input-type=module', '--eval', program, JSON.stringify(options), lastType];
    this.#process = spawn(process.execPath, args, { cwd: root, stdio: ['ignore', 'pipe', 'inherit'] });
    this.#process.stdout.setEncoding('utf8').on('data', (text: string) => {
      this.lines.push(...text.split('\n').filter((line) => line !== ''));
    });
    this.ended = new Promise((resolve) => {
      this.#process.on('close', (status, signal) => {
        this.hasEnded = true;
        resolve(status ?? signal);
      });
    });
  }

  get pid(): number {
    return this.#process.pid as number;
  }

  kill(): Promise<number | string | null> {
    this.#process.kill('SIGKILL');
    return this.ended;
  }

  /** Waits until a condition holds or the process has ended. */
  async until(condition: () => boolean): Promise<void> {
    while (!this.hasEnded && !condition()) await new Promise((resolve) => setImmediate(resolve));
  }
}
