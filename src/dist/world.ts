// The processes of a run, as one of them sees them.
import type { Device } from '../runtime/device.js';

/** How process groups are made. */
export interface ConnectOptions {
  backend: 'auto' | 'gloo' | 'nccl';
  /** Seconds that a collective waits for the others. */
  timeout: number;
}

/** One process among those of a run, for as long as they stay the same: a round. */
export interface World extends AsyncDisposable {
  readonly rank: number;
  readonly size: number;
  /** Among the processes of this host. */
  readonly localRank: number;
  readonly localSize: number;
  /** Rounds before this one, each ended by a process that was lost or came. */
  readonly round: number;
  /** Aborted when the round is over, with a HadalError (HADAL_ERR_COMM) that names the ranks that were lost. */
  readonly signal: AbortSignal;

  /** Gives the device the group of all ranks as its axis `dp`. @throws HadalError HADAL_ERR_COMM naming who is missing */
  connect(device: Device, options: ConnectOptions): Promise<void>;

  /**
   * What every rank gives, in the order of ranks: small JSON, not over the groups. All ranks call it in the same order with the
   * same name. Serves as a barrier.
   *
   * @throws HadalError HADAL_ERR_COMM when the round ends before all have given theirs
   */
  gather<T>(name: string, value: T): Promise<T[]>;

  /**
   * Leaves this round for the next one, which begins when the launcher has brought the others.
   *
   * @param step - updates that this process holds the whole state after; −1: it holds none. Rank 0 of the next round is one that
   *   holds the newest
   * @throws HadalError HADAL_ERR_COMM where no launcher makes rounds
   */
  nextRound(step: number): Promise<World>;
}
