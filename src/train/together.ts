// The processes of a run as its parts ask for them. Alone, nothing is sent and nothing waited for.
import type { World } from '../dist/world.js';

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

  /** Whether it owns the run directory and decides what one decides. */
  get isFirst(): boolean {
    return this.rank === 0;
  }

  /** Whether it makes what all processes of its host need. */
  get isFirstOfHost(): boolean {
    return (this.world?.localRank ?? 0) === 0;
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
  async fromFirst<T>(name: string, value: T | null): Promise<T> {
    const [first] = await this.gather(name, this.isFirst ? value : null);
    return first as T;
  }

  /** Waits for all. @throws as {@link gather} */
  async meet(name: string): Promise<void> {
    await this.gather(name, null);
  }
}
