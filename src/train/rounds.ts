// Rounds of a run: when a process is lost, those that are left leave the round and begin another one with what they hold.
import type { World } from '../dist/world.js';
import type { BackingFile } from '../runtime/backing-file.js';
import type { Tensor } from '../runtime/tensor.js';
import type { TrainEvent } from './events.js';
import type { Fitted } from './fit.js';
import type { PreparedRun } from './prepare.js';
import type { Run } from './run.js';
import type { Progress } from './run-state.js';
import { hasShares } from './share-state.js';
import type { Stepper } from './stepper.js';
import { isRoundOver, Together } from './together.js';

/** What a process keeps for the next round. */
export class Kept implements Disposable {
  prepared: PreparedRun | null = null;
  fitted: Fitted | null = null;
  offloadFile: BackingFile | null = null;
  stepper: Stepper | null = null;
  run: Run | null = null;
  /** Its place in the round before. */
  place: { rank: number; size: number } | null = null;

  /** Updates whose whole state is in memory; −1: it is not. */
  get step(): number {
    const { stepper, run } = this;
    return stepper && run?.held.isWhole && !hasShares(stepper) ? run.state.step : -1;
  }

  /** Where the state in memory stands; null: there is none. */
  get progress(): Progress | null {
    return this.step >= 0 ? (this.run?.progress ?? null) : null;
  }

  /**
   * Puts a stepper in the place of the one before, whose tensors it may have.
   *
   * @param goesOn - whether any process goes on from memory
   */
  replaceStepper(make: (earlier: Map<string, Tensor>) => Stepper, goesOn: boolean): Stepper {
    const before = this.stepper;
    if (!goesOn) {
      this.run = null;
      before?.dispose();
    }
    this.stepper = make(before?.tensors ?? new Map());
    before?.dispose();
    return this.stepper;
  }

  [Symbol.dispose](): void {
    this.stepper?.dispose();
    this.offloadFile?.[Symbol.dispose]();
  }
}

/** What a round begins with. */
export interface Arrival {
  /** Ranks of the round before that are gone. */
  lost: number[];
  /** Whether rank 0 holds a state, which is the newest one then. */
  isInMemory: boolean;
}

/** Tells who came from where. @throws HadalError HADAL_ERR_COMM */
export async function arrive(together: Together, { place, step }: Kept): Promise<Arrival> {
  const all = await together.gather('arrival', { place, step });
  const before = all.flatMap((each) => each.place ?? []);
  const ranks = new Set(before.map(({ rank }) => rank));
  const size = Math.max(0, ...before.map((each) => each.size));
  const lost = Array.from({ length: size }, (_, rank) => rank).filter((rank) => !ranks.has(rank));
  return { lost, isInMemory: (all[0]?.step ?? -1) >= 0 };
}

/** Goes through rounds until one is not cut off, and leaves the last. @throws HadalError HADAL_ERR_COMM where there is no next one */
export async function* inRounds(
  world: World | null,
  kept: Kept,
  round: (together: Together) => AsyncGenerator<TrainEvent, void>,
): AsyncGenerator<TrainEvent, void> {
  let current = world;
  try {
    while (true) {
      const together = new Together(current);
      try {
        return yield* round(together);
      } catch (error) {
        if (!current || !isRoundOver(error)) throw error;
        kept.place = { rank: together.rank, size: together.size };
        current = await current.nextRound(kept.step);
      }
    }
  } finally {
    await current?.[Symbol.asyncDispose]();
  }
}
