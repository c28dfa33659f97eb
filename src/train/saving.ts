// When checkpoints are written: from a snapshot while training goes on, or at once where nothing goes on.
import { HadalError } from '../core/errors.js';
import { formatDuration } from '../core/format.js';
import { workerUrl } from '../core/worker-url.js';
import { WorkerPool } from '../data/worker-pool.js';
import { saveContents, withData } from '../formats/directory-contents.js';
import type { ModelFilesOptions } from '../session/model-directory.js';
import { checkpointContents, savedTensors, type TrainState } from './checkpoint.js';
import type { TrainConfig } from './config.js';
import type { CheckpointEvent, WarningEvent } from './events.js';
import type { RunDirectory } from './run-directory.js';
import type { SaveTask } from './save-worker.js';
import type { Stepper } from './stepper.js';

/** Waiting for the save before is worth a word from here on. */
const longWaitMs = 1000;

/**
 * Writes a run's checkpoints, one at a time. A periodic one that the machine refuses (a full disk) costs a warning: what
 * stands is left as it is, and the next one is tried.
 */
export class CheckpointSaver implements AsyncDisposable {
  #pending: Promise<void> = Promise.resolve();
  #events: (CheckpointEvent | WarningEvent)[] = [];
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
    const { step } = state;
    this.#pending = this.#saved(state, this.config.background).then(
      (event) => {
        if (this.#hasFailed) this.#warn(step, 'checkpoints are saved again');
        this.#hasFailed = false;
        this.#events.push(event);
      },
      (error: unknown) => {
        if (!isRefused(error)) throw error;
        this.#hasFailed = true;
        this.#warn(
          step,
          `no checkpoint could be saved, training goes on and tries again at the next: ${error.message}`,
        );
      },
    );
    this.#pending.catch(() => {}); // thrown by settle()
    if (!this.config.background) await this.settle();
  }

  /** To be told that the run stands where a checkpoint of so many steps is, which need not be written once more. */
  loaded(step: number): void {
    this.#standing = step;
  }

  /** Saves at once. @throws HadalError HADAL_ERR_IO when the machine refuses */
  async save(state: TrainState): Promise<CheckpointEvent> {
    await this.settle();
    return this.#saved(state, false);
  }

  /** Waits for the save under way. @throws what was unexpected in it */
  async settle(): Promise<void> {
    await this.#pending;
  }

  /** What has happened since the last call. */
  takeEvents(): (CheckpointEvent | WarningEvent)[] {
    return this.#events.splice(0);
  }

  async #saved(state: TrainState, background: boolean): Promise<CheckpointEvent> {
    const { step } = state;
    const path = this.run.checkpointPath(step);
    const bytes = step === this.#standing ? 0 : await (background ? this.#writeSnapshot : this.#write)(path, state);
    this.#standing = step;
    await this.run.prune(this.config);
    return { type: 'checkpoint', step, path, bytes };
  }

  readonly #write = (path: string, state: TrainState): Promise<number> =>
    saveContents(path, checkpointContents(this.stepper, state, this.beside));

  readonly #writeSnapshot = async (path: string, state: TrainState): Promise<number> => {
    // Before anything is awaited: a step may follow, and the state goes on with it.
    const snapshot = this.stepper.device.snapshot(savedTensors(this.stepper));
    const contents = checkpointContents(this.stepper, state, this.beside, snapshot.read);
    // A thread a save: what it holds goes back to the system when it ends.
    await using worker = new WorkerPool(workerUrl(import.meta.url, './save-worker.js'), 1);
    const task: SaveTask = { path, contents: await withData(contents) };
    return await worker.run<number>('save', task, snapshot.buffers);
  };

  #warn(step: number, message: string): void {
    this.#events.push({ type: 'warning', step, message });
  }

  /** Lets the save under way end. What nobody was told is said as the process's warning. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.settle();
    for (const event of this.takeEvents()) if (event.type === 'warning') process.emitWarning(event.message);
  }
}

/** Whether it is the machine that refuses: no space, no permission, a broken disk. */
const isRefused = (error: unknown): error is HadalError => error instanceof HadalError && error.code === 'HADAL_ERR_IO';
