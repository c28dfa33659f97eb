// A run on disk: config.json, metrics.jsonl, checkpoints/, and the lock that keeps a second process out.
import { appendFileSync, closeSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { mkdir, open, readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { HadalError } from '../core/errors.js';
import { writeFileAtomic } from '../formats/atomic-file.js';
import { fileError, withFileErrors } from '../formats/file-error.js';
import type { TrainConfig } from './config.js';

/** The directory of one run, owned by this process until it is disposed of. */
export class RunDirectory implements Disposable {
  readonly #lockPath: string;
  readonly #metricsPath: string;

  private constructor(readonly path: string) {
    this.#lockPath = join(path, 'run.lock');
    this.#metricsPath = join(path, 'metrics.jsonl');
  }

  /**
   * Takes a run directory, making it where there is none.
   *
   * @throws HadalError HADAL_ERR_LOCKED while another process trains in it; HADAL_ERR_IO; HADAL_ERR_CONFIG when it holds
   * a run and `resume` was not asked for
   */
  static async open(path: string, { resume }: { resume: boolean }): Promise<RunDirectory> {
    await withFileErrors(`make the run directory ${path}`, () => mkdir(join(path, 'checkpoints'), { recursive: true }));
    const run = new RunDirectory(path);
    run.#lock();
    try {
      if (!resume && (await run.checkpoints()).length > 0) {
        throw new HadalError(
          'HADAL_ERR_CONFIG',
          `[train] expected an empty run directory, ${path} holds a run; give --resume to continue it, or another --out`,
        );
      }
      return run;
    } catch (error) {
      run.dispose();
      throw error;
    }
  }

  /** Names of the checkpoints, the newest first. Those that are not whole have another name while they are written. */
  async checkpoints(): Promise<string[]> {
    const names = await withFileErrors(`read ${this.path}`, () => readdir(join(this.path, 'checkpoints')));
    return names
      .filter((name) => /^step-\d{8}$/.test(name))
      .sort()
      .reverse();
  }

  checkpointPath(step: number): string {
    return join(this.path, 'checkpoints', `step-${String(step).padStart(8, '0')}`);
  }

  /** Removes all but the newest `keep` checkpoints. */
  async prune(keep: number): Promise<void> {
    for (const name of (await this.checkpoints()).slice(keep)) {
      await withFileErrors(`remove ${name}`, () => rm(join(this.path, 'checkpoints', name), { recursive: true }));
    }
  }

  /** Writes the resolved configuration, enough to repeat the run. */
  async writeConfig(config: TrainConfig): Promise<void> {
    await writeFileAtomic(join(this.path, 'config.json'), `${JSON.stringify(config, null, 2)}\n`);
  }

  /** Appends a line to metrics.jsonl. */
  log(line: Record<string, unknown>): void {
    try {
      appendFileSync(this.#metricsPath, `${JSON.stringify(line)}\n`);
    } catch (error) {
      throw fileError(error as NodeJS.ErrnoException, `write ${this.#metricsPath}`);
    }
  }

  /** Drops the lines of metrics.jsonl that come after `step`, and a last line that was cut off. */
  async truncateMetrics(step: number): Promise<void> {
    const text = await readFile(this.#metricsPath, 'utf8').catch(() => '');
    let kept = 0;
    for (const line of text.split('\n').slice(0, -1)) {
      if (stepOf(line) > step) break;
      kept += Buffer.byteLength(line) + 1;
    }
    const file = await withFileErrors(`open ${this.#metricsPath}`, () => open(this.#metricsPath, 'a'));
    await file.truncate(kept);
    await file.close();
  }

  #lock(): void {
    const write = () => {
      const file = openSync(this.#lockPath, 'wx');
      writeSync(file, `${process.pid}\n`);
      closeSync(file);
    };
    try {
      write();
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST')
        throw fileError(error as NodeJS.ErrnoException, `lock ${this.path}`);
      const owner = Number.parseInt(readFileSync(this.#lockPath, 'utf8'), 10);
      if (isAlive(owner)) {
        throw new HadalError(
          'HADAL_ERR_LOCKED',
          `[train] expected to be alone in ${this.path}, process ${owner} trains there; wait for it or give another --out`,
        );
      }
      // Its owner was killed.
      rmSync(this.#lockPath);
      write();
    }
  }

  dispose(): void {
    rmSync(this.#lockPath, { force: true });
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

function stepOf(line: string): number {
  try {
    return (JSON.parse(line) as { step?: number }).step ?? 0;
  } catch {
    return Number.POSITIVE_INFINITY;
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
