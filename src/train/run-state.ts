// Parameters and state of a run in memory, and where they come from: other processes, a checkpoint, the beginning.
import type { Device } from '../runtime/device.js';
import { loadParameters, type ModelSource } from '../session/model-source.js';
import { loadNewestCheckpoint, type TrainState } from './checkpoint.js';
import type { EvaluationEvent } from './events.js';
import type { Finding } from './rules.js';
import type { RunDirectory } from './run-directory.js';
import { savedTensors } from './saved-tensors.js';
import { hasShares, shareState } from './share-state.js';
import type { SizedConfig } from './step-config.js';
import type { Stepper } from './stepper.js';
import type { Together } from './together.js';
import { nothingWatched } from './watch.js';

/** Where a run stands, beside its tensors: JSON, so that a process which comes to it can be told. */
export interface Progress {
  state: TrainState;
  /** What is still to be done after the last update (rules, an evaluation, a checkpoint): what rules found; null: nothing. */
  owed: Finding[] | null;
  /** What metrics.jsonl says of the last update. */
  lines: Record<string, unknown>[];
  /** The last update of this run whose numbers were finite. */
  lastFiniteStep: number | null;
  /** The checkpoint that the run last went back to, and how often in a row. */
  rollbacks: { to: number; count: number };
  /** Training loss of the last update, and what was evaluated before the first one. */
  lastLoss: number | null;
  initial: EvaluationEvent | null;
}

/** As it is sent: JSON has no NaN and no ∞, which rules are there to find. */
const sentOf = (progress: Progress) => ({
  ...progress,
  owed: progress.owed?.map((finding) => ({ ...finding, value: String(finding.value) })) ?? null,
});

/** What the bits of a run depend on. */
function bitsOf({ threads, instructionSet, dtype, dist }: TrainState): string {
  const processes = dist ? ` in ${dist.worldSize} processes of ZeRO stage ${dist.zero}` : '';
  return `${threads} threads on ${instructionSet}, ${dtype}${processes}`;
}

/** What a state is of, and for. */
export interface StateParts {
  config: SizedConfig;
  directory: RunDirectory;
  stepper: Stepper;
  device: Device;
  /** Where the weights come from, null where they are random. */
  source: ModelSource | null;
  together: Together;
}

/** The state of a run in one of its processes. */
export class RunState {
  progress: Progress;
  /** Whether parameters and state in memory are those of `progress`. */
  isWhole: boolean;
  /** Step of the checkpoint that it goes on from. */
  loadedStep: number | null = null;

  /** @param kept - where the state stands that the stepper holds; null: it holds none */
  constructor(
    private readonly parts: StateParts,
    kept: Progress | null,
  ) {
    this.isWhole = kept !== null;
    this.progress = kept ?? {
      state: this.#beginning(),
      ...{ owed: null, lines: [], lastFiniteStep: null, lastLoss: null, initial: null },
      rollbacks: { to: -1, count: 0 },
    };
  }

  /** Where a run stands before its first update. */
  #beginning(): TrainState {
    const { config, device, stepper } = this.parts;
    return {
      step: 0,
      tokens: 0,
      skippedSteps: 0,
      evalLoss: null,
      seed: config.seed,
      cursor: undefined as never, // the loader's, set in openLoader()
      watch: nothingWatched,
      threads: device.threads,
      instructionSet: device.instructionSet,
      dtype: stepper.config.precision.dtype,
      dist: this.#dist,
    };
  }

  /** What checkpoints say of the processes; nothing of one alone. */
  get #dist(): TrainState['dist'] {
    const { dist } = this.parts.stepper.config;
    return dist ? { worldSize: dist.worldSize, zero: dist.zero } : undefined;
  }

  /**
   * Brings all processes to one state: the newest that is in memory, else the newest checkpoint, else the beginning.
   *
   * @param resumes - whether checkpoints count
   * @returns what the user should know
   */
  async load(resumes: boolean): Promise<string[]> {
    const { together } = this.parts;
    const newest = await together.fromFirst('progress', this.isWhole ? sentOf(this.progress) : null);
    if (!newest) return this.loadAnew(resumes);
    const owed = newest.owed?.map((finding) => ({ ...finding, value: Number(finding.value) })) ?? null;
    this.progress = { ...newest, owed, state: { ...newest.state, dist: this.#dist } };
    await this.#share();
    return [];
  }

  /** Reads or makes the state in memory anew. */
  async loadAnew(resumes: boolean): Promise<string[]> {
    this.isWhole = false;
    const notes = await this.#loadFile(resumes);
    await this.#share();
    return notes;
  }

  /** Gives all processes rank 0's state. */
  async #share(): Promise<void> {
    const { stepper, together } = this.parts;
    // What the others hold is a mixture meanwhile.
    this.isWhole &&= together.isFirst;
    await shareState(stepper);
    await stepper.refreshWorkingCopies();
    this.isWhole = true;
  }

  /** Fills the model: from the newest checkpoint, a directory, or at random. */
  async #loadFile(resumes: boolean): Promise<string[]> {
    const { config, directory, source, stepper, together } = this.parts;
    const notes: string[] = [];
    this.progress = { ...this.progress, state: this.#beginning(), lines: [] };
    await stepper.begin();
    const note = (message: string) => void notes.push(message);
    const found = resumes ? await loadNewestCheckpoint(directory, stepper, note, together) : null;
    if (found) {
      const { threads, instructionSet, dtype, dist } = this.progress.state;
      if (bitsOf(found) !== bitsOf(this.progress.state)) {
        notes.push(
          `the checkpoint was made with ${bitsOf(found)}, this run has ${bitsOf(this.progress.state)}: it goes on, but not bit for bit`,
        );
      }
      this.progress.state = { ...found, threads, instructionSet, dtype, dist };
      this.loadedStep = found.step;
    } else if (source) {
      if (together.isFirst || hasShares(stepper))
        notes.push(...(await loadParameters(source, savedTensors(stepper), stepper.model)));
    } else {
      await stepper.initialize(config.seed);
    }
    return notes;
  }
}
