// The processes of a run as its parts ask for them. Alone, nothing is sent and nothing waited for.
import { type ErrorCode, HadalError } from '../core/errors.js';
import type { World } from '../dist/world.js';

/** Cause of an error that another process throws, too, and says. */
const saidByAnother = Symbol('said by another process');

/** Whether another process says what this one throws. */
export const isSaidByAnother = (error: unknown): boolean => error instanceof Error && error.cause === saidByAnother;

/** Whether an error says that processes are no longer all there. */
export const isRoundOver = (error: unknown): boolean => error instanceof HadalError && error.code === 'HADAL_ERR_COMM';

/** How something ended in a process: well, or with an error; null: it had nothing to do. */
type Ending<T> = { value: T } | { error: { code: ErrorCode; message: string } } | null;

/** A process among those that train together, in one round. */
export class Together {
  /** @param world - null: this process trains alone */
  constructor(readonly world: World | null) {}

  get rank(): number {
    return this.world?.rank ?? 0;
  }

  get size(): number {
    return this.world?.size ?? 1;
  }

  get round(): number {
    return this.world?.round ?? 0;
  }

  /** Processes of this host. */
  get localSize(): number {
    return this.world?.localSize ?? 1;
  }

  /** Whether it owns the run directory and decides what one decides. */
  get isFirst(): boolean {
    return this.rank === 0;
  }

  /** Whether it makes what all processes of its host need. */
  get isFirstOfHost(): boolean {
    return (this.world?.localRank ?? 0) === 0;
  }

  /** Bytes that this process has sent over its groups. */
  get wireBytesSent(): number {
    return this.world?.group?.wireBytes().sent ?? 0;
  }

  /**
   * What every process gives, by rank. All call it in the same order; none goes on before all have called it.
   *
   * @param value - small, of JSON's types: NaN and ∞ are none of them
   * @throws HadalError HADAL_ERR_COMM when the round ends before
   */
  async gather<T>(name: string, value: T): Promise<T[]> {
    return this.world ? this.world.gather(name, value) : [value];
  }

  /** What rank 0 gives; of the others, nothing is asked. @throws as {@link gather} */
  async fromFirst<T>(name: string, value: T): Promise<T> {
    const [first] = await this.gather(name, this.isFirst ? value : null);
    return this.isFirst ? value : (first as T);
  }

  /** Waits for all. @throws as {@link gather} */
  async meet(name: string): Promise<void> {
    await this.gather(name, null);
  }

  /**
   * Waits until those that have something to do have done it. Where one of them failed, all throw its error.
   *
   * @param body - null: nothing to do here
   * @returns what each has made, by rank
   */
  async done<T>(name: string, body: (() => Promise<T>) | null): Promise<(T | null)[]> {
    if (!this.world) return [body && (await body())];
    let own: unknown;
    const ending = await endingOf(body, (error) => {
      own = error;
    });
    const all = await this.gather<Ending<T>>(name, ending);
    if (own) throw own;
    for (const each of all)
      if (each && 'error' in each) throw new HadalError(each.error.code, each.error.message, { cause: saidByAnother });
    return all.map((each, rank) => valueIn(rank === this.rank ? ending : each));
  }

  /** What rank 0 makes. Where it failed, all throw its error. */
  async madeByFirst<T>(name: string, body: () => Promise<T>): Promise<T> {
    const [made] = await this.done(name, this.isFirst ? body : null);
    return made as T;
  }

  /** An error that all processes throw, for rank 0 to say. */
  common(code: ErrorCode, message: string): HadalError {
    return new HadalError(code, message, this.isFirst ? {} : { cause: saidByAnother });
  }
}

const valueIn = <T>(ending: Ending<T>): T | null => (ending && 'value' in ending ? ending.value : null);

/** A round that is over, or a bug, is nothing to tell the others. */
async function endingOf<T>(body: (() => Promise<T>) | null, onError: (error: HadalError) => void): Promise<Ending<T>> {
  try {
    return body && { value: await body() };
  } catch (error) {
    if (!(error instanceof HadalError) || isRoundOver(error)) throw error;
    onError(error);
    return { error: { code: error.code, message: error.message } };
  }
}
