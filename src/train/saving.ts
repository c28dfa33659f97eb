// When checkpoints are written: from a snapshot while training goes on, or at once where nothing goes on.
import { existsSync } from 'node:fs';
import { HadalError } from '../core/errors.js';
import { formatDuration } from '../core/format.js';
import { workerUrl } from '../core/worker-url.js';
import { WorkerPool } from '../data/worker-pool.js';
import { saveContents, withData, writeTensorFiles } from '../formats/directory-contents.js';
import { TensorPieces } from '../formats/tensor-pieces.js';
import { Snapshot } from '../runtime/snapshot.js';
import type { ModelFilesOptions } from '../session/model-directory.js';
import type { TrainState } from './checkpoint.js';
import { checkpointContents, passingName, type SharedContents, sharedContents } from './checkpoint-contents.js';
import type { TrainConfig } from './config.js';
import type { CheckpointEvent, WarningEvent } from './events.js';
import type { RunDirectory } from './run-directory.js';
import { saveTogether, type Written } from './save-together.js';
import type { SaveTask, WriteTask } from './save-worker.js';
import { savedTensors, type TensorHolder } from './saved-tensors.js';
import { Together } from './together.js';

/** Waiting for the save before is worth a word from here on. */
const longWaitMs = 1000;

/** How many updates ahead a save is prepared for. */
const preparedAhead = 4;

/**
 * Writes a run's checkpoints, one at a time, with all its processes: all call the same at the same steps. A periodic one
 * that a machine refuses (a full disk) costs a warning: what stands is left as it is, and the next one is tried.
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
  /** Saves that were begun, for their names. */
  #count = 0;

  constructor(
    private readonly run: RunDirectory,
    private readonly stepper: TensorHolder,
    /** Files beside the weights. */
    private readonly beside: ModelFilesOptions,
    private readonly config: TrainConfig['checkpoint'],
    private readonly together = new Together(null),
  ) {}

  /** To be told before an update in how many updates the next save is due: makes room for its snapshot. */
  prepare(dueIn: number): void {
    if (!this.config.background || dueIn > preparedAhead || this.#pending) return;
    this.#snapshot ??= this.#room();
  }

  /** Room for a snapshot; null where memory has none. */
  #room(): Snapshot | null {
    try {
      const tensors = [...savedTensors(this.stepper).values()].map(({ held }) => held);
      return new Snapshot(this.stepper.device, tensors);
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
    const room = this.config.background ? (this.#snapshot ?? this.#room()) : null;
    this.#snapshot = null;
    const save = await this.#agreed(state, room);
    if (this.config.background && !save.snapshot) {
      this.#warn(state.step, 'memory has no room for a copy of the state: training waits until it is saved');
    }
    this.#pending = this.#attempt(save).finally(() => {
      this.#pending = null;
    });
    if (!save.snapshot) await this.settle();
  }

  /** Where one process has no room for a copy, all wait; whether the checkpoint stands already, rank 0 knows. */
  async #agreed(state: TrainState, room: Snapshot | null): Promise<Save> {
    const name = `save/${++this.#count}`;
    const path = this.run.checkpointPath(state.step);
    const here = { hasRoom: room !== null, stands: state.step === this.#standing && existsSync(path) };
    const all = await this.together.gather(name, here);
    return {
      name,
      path,
      state,
      stands: all[0]?.stands ?? false,
      snapshot: all.every((one) => one.hasRoom) ? room : null,
    };
  }

  /** Saves, and notes how it ends. */
  async #attempt(save: Save): Promise<void> {
    const { step } = save.state;
    try {
      const event = await this.#saved(save);
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
    return this.#saved(await this.#agreed(state, null));
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

  async #saved(save: Save): Promise<CheckpointEvent> {
    const { path, stands, state } = save;
    const { step } = state;
    const bytes = stands ? 0 : await this.#write(save);
    this.#standing = step;
    await this.run.prune(this.config).catch((error: unknown) => {
      if (!isRefused(error)) throw error;
      this.#warn(step, `an older checkpoint could not be removed: ${error.message}`);
    });
    return { type: 'checkpoint', step, path, bytes };
  }

  /** @returns bytes of the checkpoint */
  async #write({ name, path, state, snapshot }: Save): Promise<number> {
    const { stepper, beside, together } = this;
    // Before anything is awaited: a step may follow, and the state goes on with it.
    snapshot?.take();
    const parts = { stepper, beside, state: structuredClone(state) };
    if (together.size === 1) {
      const contents = checkpointContents(parts, snapshot?.read);
      if (!snapshot) return saveContents(path, contents);
      return this.#inThread<SaveTask, number>('save', snapshot, async (bytes) => ({
        ...{ path, bytes },
        contents: await withData(contents),
      }));
    }
    const { files, texts, assembled } = sharedContents(parts, together, snapshot?.read);
    return saveTogether(together, name, path, {
      write: (directory) =>
        snapshot
          ? this.#inThread<WriteTask, Written>('write', snapshot, async (bytes) => ({
              ...{ directory, bytes },
              files: (await withData({ texts: {}, tensors: files })).tensors,
            }))
          : writeTensorFiles(directory, files),
      assemble: assembled && ((directory) => assemble(directory, assembled)),
      isPassing: (file) => file.startsWith(`${passingName}-`),
      texts,
    });
  }

  /** A thread a save: what it holds goes back to the system when it ends. */
  async #inThread<Task, T>(name: string, snapshot: Snapshot, task: (bytes: number) => Promise<Task>): Promise<T> {
    const bytes = snapshot.buffers.reduce((sum, { byteLength }) => sum + byteLength, 0);
    const made = await task(bytes);
    // Begun now, it leaves the copy the processors.
    await using worker = new WorkerPool(workerUrl(import.meta.url, './save-worker.js'), 1);
    return await untilAborted(worker.run<T>(name, made, snapshot.buffers), this.together.world?.signal);
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

/** A save that all processes have agreed on. */
interface Save {
  name: string;
  path: string;
  state: TrainState;
  /** Whether it stands already. */
  stands: boolean;
  /** Room for a copy, where training goes on meanwhile. */
  snapshot: Snapshot | null;
}

/** Makes models of the pieces that all processes have written. */
async function assemble(directory: string, assembled: NonNullable<SharedContents['assembled']>): Promise<Written> {
  await using weights = await TensorPieces.open(directory, passingName);
  return await writeTensorFiles(directory, assembled(weights));
}

/** What another process's end makes useless is not waited for. */
async function untilAborted<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (!signal) return work;
  work.catch(() => {}); // reported where it is awaited
  let end = () => {};
  const ended = new Promise<never>((_, reject) => {
    end = () => reject(signal.reason);
  });
  signal.addEventListener('abort', end);
  try {
    signal.throwIfAborted();
    return await Promise.race([work, ended]);
  } finally {
    signal.removeEventListener('abort', end);
  }
}

/** Whether it is a machine that refuses, no space, no permission, a broken disk, or one is lost. */
const isRefused = (error: unknown): error is HadalError =>
  error instanceof HadalError && ['HADAL_ERR_IO', 'HADAL_ERR_COMM'].includes(error.code);
