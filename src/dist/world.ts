// The processes of a run, as one of them sees them.
import type { NativeProcessGroup } from '../addon/addon.js';
import { HadalError } from '../core/errors.js';
import type { Device } from '../runtime/device.js';
import { type LaunchedPlace, placeFrom, type StaticPlace, tokenFrom } from './environment.js';
import { openWholeGroup } from './hierarchical.js';
import { Membership, overError } from './membership.js';
import type { Deal } from './rendezvous-messages.js';
import { defaultTiming } from './rendezvous-rounds.js';

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
  /** Of all ranks, when the device has it; else null. */
  readonly group: NativeProcessGroup | null;

  /** Gives the device the group of all ranks as its axis `dp`. @throws HadalError HADAL_ERR_COMM naming who is missing */
  connect(device: Device, options: ConnectOptions): Promise<void>;

  /**
   * What every rank gives, in the order of ranks: small JSON, not over the groups. All ranks call it in the same order with the
   * same name. Serves as a barrier. Names `channel/…` have an order of their own: for what goes on beside the rest.
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

export interface JoinOptions {
  /** Who this process is; default: as `process.env` says. */
  place?: StaticPlace | LaunchedPlace | null;
  /** The run's secret; default: `HADAL_TOKEN`. */
  token?: string;
  /** Address of this host that the others reach; default: `HADAL_COMM_INTERFACE`, else the one that reaches rank 0 or the launcher. */
  address?: string;
  /** Seconds that the others are waited for; 300. */
  timeout?: number;
  /** Seconds of silence after which a process is lost, where there is no launcher to say; 10. */
  heartbeatTimeout?: number;
  /** Signs of life from a thread of their own, whatever the main thread does; true. */
  hasThread?: boolean;
}

/**
 * Joins the run that a launcher started this process for: `hadal launch`, torchrun, Slurm, MPI, Kubeflow. Dispose what the last
 * round was: the others are not to take an end for a loss.
 *
 * @returns null for a process of its own
 * @throws HadalError HADAL_ERR_CONFIG for an environment that makes no sense; HADAL_ERR_COMM when the others do not come
 */
export async function joinWorld(options: JoinOptions = {}): Promise<World | null> {
  const place = options.place === undefined ? placeFrom(process.env) : options.place;
  if (!place) return null;
  const membership = await Membership.open({
    place,
    token: options.token ?? tokenFrom(process.env),
    waitMs: (options.timeout ?? 300) * 1000,
    heartbeatMs: options.heartbeatTimeout === undefined ? defaultTiming.heartbeatMs : options.heartbeatTimeout * 1000,
    hasThread: options.hasThread ?? true,
    ...(options.address !== undefined && { address: options.address }),
  });
  try {
    return await enter(membership, -1);
  } catch (error) {
    await membership[Symbol.asyncDispose]();
    throw error;
  }
}

async function enter(membership: Membership, step: number): Promise<World> {
  return new Round(membership, await membership.arrive(step));
}

/** How long a missing value is waited for until it is looked whether its rank is still there. */
const lookMs = 500;

class Round implements World {
  readonly rank: number;
  readonly size: number;
  readonly localRank: number;
  readonly localSize: number;
  readonly round: number;
  readonly #hosts: readonly string[];
  readonly #membership: Membership;
  readonly #over = new AbortController();
  /** Calls of {@link gather} by channel. */
  readonly #gathers = new Map<string, number>();
  #group: NativeProcessGroup | null = null;
  #device: Device | null = null;

  constructor(membership: Membership, { round, rank, size, localRank, localSize, hosts }: Deal) {
    this.rank = rank;
    this.size = size;
    this.localRank = localRank;
    this.localSize = localSize;
    this.round = round;
    this.#hosts = hosts;
    this.#membership = membership;
    membership.listen(round, (message) => this.#end(message));
  }

  get signal(): AbortSignal {
    return this.#over.signal;
  }

  get group(): NativeProcessGroup | null {
    return this.#group;
  }

  async connect(device: Device, { backend, timeout }: ConnectOptions): Promise<void> {
    this.signal.throwIfAborted();
    const { rank, size } = this;
    const isGpu = device.target.backend === 'cuda';
    const group = await openWholeGroup({
      backend: backend === 'auto' ? (isGpu ? 'nccl' : 'gloo') : backend,
      ...(isGpu && { device: device.index }),
      ...{ rank, size, timeout, host: this.#membership.address, signal: this.signal },
      gather: (name, value) => this.gather(name, value),
    });
    if (this.signal.aborted) {
      group.dispose();
      this.signal.throwIfAborted();
    }
    this.#group = group;
    this.#device = device;
    device.setGroup('dp', group);
  }

  async gather<T>(name: string, value: T): Promise<T[]> {
    const { client } = this.#membership;
    const channel = name.slice(0, name.indexOf('/') + 1);
    const count = this.#gathers.get(channel) ?? 0;
    this.#gathers.set(channel, count + 1);
    const prefix = `${this.round}/${channel}${count}`;
    const keys = Array.from({ length: this.size }, (_, rank) => `${prefix}/${rank}`);
    await this.#unlessOver(client.set(`${prefix}/${this.rank}`, JSON.stringify({ name, value })));
    const given = (await this.#valuesOf(keys, name)).map((text) => JSON.parse(text) as { name: string; value: T });
    const other = given.findIndex((entry) => entry.name !== name);
    if (other >= 0) {
      throw new HadalError(
        'HADAL_ERR_COMM',
        `[dist] expected all ranks to gather '${name}', got '${given[other]?.name}' of rank ${other}; all must call the same in the same order`,
      );
    }
    // The last one to have read them clears them away.
    const readers = await this.#unlessOver(client.add(`${prefix}/read`, 1));
    if (readers === this.size) await this.#unlessOver(client.delete([...keys, `${prefix}/read`]));
    return given.map((entry) => entry.value);
  }

  async nextRound(step: number): Promise<World> {
    if (!this.#membership.hasRounds) {
      throw new HadalError(
        'HADAL_ERR_COMM',
        `[dist] expected a run of hadal launch, which replaces lost processes, got one of fixed processes${this.#reason()}`,
      );
    }
    this.#end('this process has left the round');
    this.#disconnect();
    return enter(this.#membership, step);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#disconnect();
    await this.#membership[Symbol.asyncDispose]();
  }

  /** Values as soon as they are all there. @throws HadalError HADAL_ERR_COMM when one cannot come any more */
  async #valuesOf(keys: string[], name: string): Promise<string[]> {
    const { client } = this.#membership;
    for (let left: number[] = []; ; left = await this.#unlessOver(client.request<number[]>({ do: 'left' }))) {
      const got = await this.#unlessOver(client.get(keys, lookMs));
      if ('values' in got) return got.values;
      const gone = got.missing.map((key) => keys.indexOf(key)).filter((rank) => left.includes(rank));
      if (gone.length === 0) continue;
      const who = gone.map((rank) => `rank ${rank} (${this.#hosts[rank]})`).join(', ');
      throw new HadalError('HADAL_ERR_COMM', `[dist] expected all ranks to gather '${name}', but ${who} has left`);
    }
  }

  /** What is waited for, or the end of the round. */
  async #unlessOver<T>(work: Promise<T>): Promise<T> {
    const { signal } = this;
    signal.throwIfAborted();
    let stop = (): void => {};
    const over = new Promise<never>((_, reject) => {
      stop = () => reject(signal.reason);
      signal.addEventListener('abort', stop, { once: true });
    });
    try {
      return await Promise.race([work, over]);
    } finally {
      signal.removeEventListener('abort', stop);
    }
  }

  #reason(): string {
    return this.signal.aborted ? `: ${(this.signal.reason as Error).message}` : '';
  }

  #end(message: string): void {
    if (this.signal.aborted) return;
    const error = overError(message);
    this.#over.abort(error);
    this.#group?.abort(`[comm] ${message}`);
  }

  #disconnect(): void {
    if (!this.#group) return;
    this.#group.abort('[comm] this process has left');
    this.#device?.setGroup('dp', null);
    this.#group.dispose();
    this.#group = null;
    this.#device = null;
  }
}
