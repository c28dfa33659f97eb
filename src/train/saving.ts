// When checkpoints are written: from a snapshot while training goes on, or at once where nothing goes on.
import { existsSync } from 'node:fs';
import { HadalError } from '../core/errors.js';
import { formatDuration } from '../core/format.js';
import { workerUrl } from '../core/worker-url.js';
import { WorkerPool } from '../data/worker-pool.js';
import { saveContents, withData } from '../formats/directory-contents.js';
import { Snapshot } from '../runtime/snapshot.js';
import type { ModelFilesOptions } from '../session/model-directory.js';
import { checkpointContents, savedTensors, type TrainState } from './checkpoint.js';
import type { TrainConfig } from './config.js';
import type { CheckpointEvent, WarningEvent } from './events.js';
import type { RunDirectory } from './run-directory.js';
import type { SaveTask } from './save-worker.js';
import type { Stepper } from './stepper.js';

/** Waiting for the save before is worth a word from here on. */
const longWaitMs = 1000;

/** How many updates ahead a save is prepared for. */
const preparedAhead = 4;

/**
 * Writes a run's checkpoints, one at a time. A periodic one that the machine refuses (a full disk) costs a warning: what
 * stands is left as it is, and the next one is tried.
 */
export class CheckpointSaver implements AsyncDisposable {
  #pending: Promise<void> | null = null;
  /** Room for the next save. */
  #snapshot: Snapshot | null = null;
  #events: (CheckpointEvent | WarningEvent)[] = [];
  /** An error that is not the machine's. */
  #unexpected: { error: unknown } | null = null;
  /** Whether the last save failed. */
  #hasFailed = false;
  /** Step of the checkpoint that was written or loaded last: it stands. */
  #standing: number | null = null;

  constructor(
    private readonly run: RunDirectory,
    private readonly stepper: Stepper,
    /** Files beside the weights. */
    private readonly beside: ModelFilesOptions,
    private readonly config: TrainConfig['checkpoint'],
  ) {}

  /** To be told before an update in how many updates the next save is due: makes room for its snapshot. */
  prepare(dueIn: number): void {
    if (!this.config.background || dueIn > preparedAhead || this.#pending) return;
    this.#snapshot ??= this.#room();
  }

  /** Room for a snapshot; null where memory has none. */
  #room(): Snapshot | null {
    try {
      return new Snapshot(this.stepper.device, savedTensors(this.stepper));
    } catch (error) {
      if (error instanceof HadalError && error.code === 'HADAL_ERR_MEMORY') return null;
      throw error;
    }
  }

  /**
   * Begins to save what the tensors and `state` hold now; steps may follow at once. Waits until the save before is done.
   * How it ends is told by {@link takeEvents}.
   */
  async begin(state: TrainState): Promise<void> {
    const began = performance.now();
    await this.settle();
    const waitedMs = performance.now() - began;
    if (waitedMs > longWaitMs) {
      this.#warn(
        state.step,
        `training waited ${formatDuration(waitedMs)} for the checkpoint before to be written; a larger checkpoint.every leaves it more time`,
      );
    }
    const snapshot = this.config.background ? (this.#snapshot ?? this.#room()) : null;
    this.#snapshot = null;
    if (this.config.background && !snapshot) {
      this.#warn(state.step, 'memory has no room for a copy of the state: training waits until it is saved');
    }
    this.#pending = this.#attempt(state, snapshot).finally(() => {
      this.#pending = null;
    });
    if (!snapshot) await this.settle();
  }

  /** Saves, and notes how it ends. */
  async #attempt(state: TrainState, snapshot: Snapshot | null): Promise<void> {
    const { step } = state;
    try {
      const event = await this.#saved(state, snapshot);
      if (this.#hasFailed) this.#warn(step, 'checkpoints are saved again');
      this.#hasFailed = false;
      this.#events.push(event);
    } catch (error) {
      if (!isRefused(error)) {
        this.#unexpected = { error };
        return;
      }
      this.#hasFailed = true;
      this.#warn(step, `saving failed, training goes on and tries again at the next checkpoint: ${error.message}`);
    }
  }

  /** To be told that the run stands where a checkpoint of so many steps is, which need not be written once more. */
  loaded(step: number): void {
    this.#standing = step;
  }

  /** Saves at once. @throws HadalError HADAL_ERR_IO when the machine refuses */
  async save(state: TrainState): Promise<CheckpointEvent> {
    await this.settle();
    return this.#saved(state, null);
  }

  /** Waits for the save under way. @throws what was unexpected in it */
  async settle(): Promise<void> {
    await this.#pending;
    this.#throwUnexpected();
  }

  #throwUnexpected(): void {
    const thrown = this.#unexpected;
    this.#unexpected = null;
    if (thrown) throw thrown.error;
  }

  /** What has happened since the last call. @throws as {@link settle} */
  takeEvents(): (CheckpointEvent | WarningEvent)[] {
    this.#throwUnexpected();
    return this.#events.splice(0);
  }

  /** @param snapshot - room for one, where training goes on meanwhile */
  async #saved(state: TrainState, snapshot: Snapshot | null): Promise<CheckpointEvent> {
    const { step } = state;
    const path = this.run.checkpointPath(step);
    const stands = step === this.#standing && existsSync(path);
    const write = () => (snapshot ? this.#writeSnapshot(path, state, snapshot) : this.#write(path, state));
    const bytes = stands ? 0 : await write();
    this.#standing = step;
    await this.run.prune(this.config).catch((error: unknown) => {
      if (!isRefused(error)) throw error;
      this.#warn(step, `an older checkpoint could not be removed: ${error.message}`);
    });
    return { type: 'checkpoint', step, path, bytes };
  }

  #write(path: string, state: TrainState): Promise<number> {
    return saveContents(path, checkpointContents(this.stepper, state, this.beside));
  }

  async #writeSnapshot(path: string, state: TrainState, snapshot: Snapshot): Promise<number> {
    // Before anything is awaited: a step may follow, and the state goes on with it.
    snapshot.take();
    const contents = checkpointContents(this.stepper, state, this.beside, snapshot.read);
    const bytes = snapshot.buffers.reduce((sum, { byteLength }) => sum + byteLength, 0);
    const task: SaveTask = { path, contents: await withData(contents), bytes };
    // A thread a save: what it holds goes back to the system when it ends. Begun now, it leaves the copy the processors.
    await using worker = new WorkerPool(workerUrl(import.meta.url, './save-worker.js'), 1);
    return await worker.run<number>('save', task, snapshot.buffers);
  }

  #warn(step: number, message: string): void {
    this.#events.push({ type: 'warning', step, message });
  }

  /** Lets the save under way end. What nobody was told is said as the process's warning. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#pending;
    // Thrown here, it would hide what ended the run.
    if (this.#unexpected) process.emitWarning(`a checkpoint could not be saved: ${this.#unexpected.error}`);
    this.#unexpected = null;
    for (const event of this.takeEvents()) if (event.type === 'warning') process.emitWarning(event.message);
  }
}

/** Whether it is the machine that refuses: no space, no permission, a broken disk. */
const isRefused = (error: unknown): error is HadalError => error instanceof HadalError && error.code === 'HADAL_ERR_IO';
