// A run on disk: config.json, metrics.jsonl, checkpoints/, and the lock that keeps a second process out.
import { closeSync, fstatSync, ftruncateSync, openSync, writeFileSync } from 'node:fs';
import { open, readdir, rename, rm } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { HadalError } from '../core/errors.js';
import { isOutOfSpace } from '../core/out-of-space.js';
import { writeFileAtomic } from '../formats/atomic-file.js';
import { DirectoryLock } from '../formats/directory-lock.js';
import { fileError, withFileErrors } from '../formats/file-error.js';
import { makeDirectory } from '../formats/make-directory.js';
import {
  checkpointName,
  checkpointNames,
  checkpointsPath,
  keptCheckpoints,
  listCheckpoints,
} from './checkpoint-list.js';
import type { TrainConfig } from './config.js';

/** What every line of metrics.jsonl says; those of evaluations have a loss of their own. */
export interface MetricsLine {
  step: number;
  evalLoss?: number;
}

/** Longest that the lock of a process that has just ended is waited for. */
const takeOverMs = 10_000;

/** The directory of one run, owned by this process until it is disposed of, or another's, in which nothing is written then. */
export class RunDirectory implements Disposable {
  readonly #metricsPath: string;
  /** null: another process of the run owns it. */
  readonly #lock: DirectoryLock | null;
  /** Lines that a full disk has refused. */
  #unwritten = '';
  #warnings: string[] = [];

  private constructor(
    readonly path: string,
    isOwner: boolean,
  ) {
    this.#metricsPath = join(path, 'metrics.jsonl');
    const use = { file: 'run.lock', part: 'train', verb: 'trains', fix: '--out' };
    this.#lock = isOwner ? new DirectoryLock(path, use) : null;
  }

  /**
   * Takes a run directory, making it where there is none.
   *
   * @throws HadalError HADAL_ERR_LOCKED while another process trains in it; HADAL_ERR_IO; HADAL_ERR_CONFIG when it holds
   * a run and `resume` was not asked for
   */
  static async open(path: string, { resume }: { resume: boolean }): Promise<RunDirectory> {
    await withFileErrors(`make the run directory ${path}`, () => makeDirectory(resolve(checkpointsPath(path))));
    const run = new RunDirectory(path, true);
    try {
      if (!resume && (await run.checkpoints()).length > 0) {
        throw new HadalError(
          'HADAL_ERR_CONFIG',
          `[train] expected an empty run directory, ${path} holds a run; give --resume to continue it, or another --out`,
        );
      }
      await run.#removeUnfinished();
      return run;
    } catch (error) {
      run.dispose();
      throw error;
    }
  }

  /** Takes it over from a process of the same run that was lost, and may be ending yet. @throws as {@link open} */
  static async takeOver(path: string): Promise<RunDirectory> {
    for (const began = performance.now(); ; await sleep(100)) {
      try {
        return await RunDirectory.open(path, { resume: true });
      } catch (error) {
        const isLocked = error instanceof HadalError && error.code === 'HADAL_ERR_LOCKED';
        if (!isLocked || performance.now() - began > takeOverMs) throw error;
      }
    }
  }

  /** Looks at a directory that another process of the same run owns. */
  static ofAnother(path: string): RunDirectory {
    return new RunDirectory(path, false);
  }

  /** Names of the checkpoints, the newest first. Those that are not whole have another name while they are written. */
  async checkpoints(): Promise<string[]> {
    return checkpointNames(this.path);
  }

  /** Removes checkpoints that a killed process was writing, or removing. */
  async #removeUnfinished(): Promise<void> {
    for (const name of await readdir(checkpointsPath(this.path))) {
      if (/^step-\d{8}\.tmp-/.test(name)) await this.#remove(name);
    }
  }

  async #remove(name: string): Promise<void> {
    const path = join(checkpointsPath(this.path), name);
    await withFileErrors(`remove ${path}`, () => rm(path, { recursive: true, force: true }));
  }

  checkpointPath(step: number): string {
    return join(checkpointsPath(this.path), checkpointName(step));
  }

  /** Removes all checkpoints but those that {@link keptCheckpoints} names; returns which. */
  async prune(limits: { keep: number; best: number }): Promise<string[]> {
    if (!this.#lock) return [];
    const found = await listCheckpoints(this.path);
    const kept = keptCheckpoints(found, limits);
    const removed = found.map(({ name }) => name).filter((name) => !kept.has(name));
    for (const name of removed) {
      // Renamed first: what is left by a process that is killed here does not look like a damaged checkpoint.
      const path = join(checkpointsPath(this.path), name);
      await withFileErrors(`remove ${path}`, () => rename(path, `${path}.tmp-removed`));
      await this.#remove(`${name}.tmp-removed`);
    }
    return removed;
  }

  /** Puts a damaged checkpoint out of the way, so that a whole one can take its place. */
  async setAside(name: string): Promise<void> {
    if (!this.#lock) return;
    await this.#remove(`${name}.damaged`);
    const path = join(checkpointsPath(this.path), name);
    await withFileErrors(`rename ${path}`, () => rename(path, `${path}.damaged`));
  }

  /** Writes the resolved configuration, enough to repeat the run. */
  async writeConfig(config: TrainConfig): Promise<void> {
    if (!this.#lock) return;
    await writeFileAtomic(join(this.path, 'config.json'), `${JSON.stringify(config, null, 2)}\n`);
  }

  /** Appends a line to metrics.jsonl; what a full disk refuses is written with a later one. @throws HadalError HADAL_ERR_IO */
  log(line: Record<string, unknown>): void {
    if (!this.#lock) return;
    const wasFull = this.#unwritten !== '';
    this.#unwritten += `${JSON.stringify(line)}\n`;
    const isFull = !this.#writeLines();
    if (isFull === wasFull) return;
    this.#warnings.push(
      isFull
        ? `the disk of ${this.#metricsPath} is full: its lines are kept until there is room`
        : `${this.#metricsPath} is written again, nothing is missing`,
    );
  }

  /** Whether there was room for them. */
  #writeLines(): boolean {
    try {
      const file = openSync(this.#metricsPath, 'a');
      const { size } = fstatSync(file);
      try {
        writeFileSync(file, this.#unwritten);
      } catch (error) {
        ftruncateSync(file, size); // a part may have been written
        throw error;
      } finally {
        closeSync(file);
      }
    } catch (error) {
      if (isOutOfSpace(error)) return false;
      throw fileError(error, `write ${this.#metricsPath}`);
    }
    this.#unwritten = '';
    return true;
  }

  /** What the user should know since the last call. */
  takeWarnings(): string[] {
    return this.#warnings.splice(0);
  }

  /** Keeps the lines of metrics.jsonl up to the first that is not `kept`; a last line that was cut off is none. */
  async truncateMetrics(kept: (line: MetricsLine) => boolean): Promise<void> {
    if (!this.#lock) return;
    const waiting = Buffer.from(this.#unwritten);
    this.#unwritten = waiting.toString('utf8', 0, endOfKept(waiting, kept));
    await withFileErrors(`write ${this.#metricsPath}`, async () => {
      await using file = await open(this.#metricsPath, 'a+');
      await file.truncate(endOfKept(await file.readFile(), kept));
    });
  }

  dispose(): void {
    if (this.#unwritten !== '' && !this.#writeLines())
      process.emitWarning(`the disk of ${this.#metricsPath} is full: its last lines are lost`);
    this.#lock?.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** Where the first line begins that is not kept. */
function endOfKept(lines: Buffer, kept: (line: MetricsLine) => boolean): number {
  let end = 0;
  for (let next = lines.indexOf(10); next >= 0; next = lines.indexOf(10, end)) {
    const line = parseLine(lines.toString('utf8', end, next));
    if (!line || !kept(line)) break;
    end = next + 1;
  }
  return end;
}

function parseLine(text: string): MetricsLine | null {
  try {
    const line = JSON.parse(text) as MetricsLine | null;
    return typeof line?.step === 'number' ? line : null;
  } catch {
    return null;
  }
}
