// A process's connection to the one that hosts its run, through all rounds.
import { once } from 'node:events';
import { hostname } from 'node:os';
import { Worker } from 'node:worker_threads';
import { HadalError } from '../core/errors.js';
import { workerUrl } from '../core/worker-url.js';
import type { LaunchedPlace, StaticPlace } from './environment.js';
import { type HeartbeatOptions, startHeartbeat } from './heartbeat.js';
import { addressOf, commAddress, isLoopback } from './interface.js';
import type { RendezvousOptions } from './rendezvous.js';
import type { Deal, Joined, LostRank } from './rendezvous-messages.js';
import type { HostAnswer } from './rendezvous-worker.js';
import { StoreClient, type StoreEvent } from './store-client.js';

export interface MembershipOptions {
  place: StaticPlace | LaunchedPlace;
  token: string;
  /** Address of this host that the others reach; default: `HADAL_COMM_INTERFACE`, else the one that reaches the run's host. */
  address?: string;
  /** Silence after which a process is lost, where rank 0 hosts the run. */
  heartbeatMs: number;
  /** How long the others are waited for. */
  waitMs: number;
  /** Signs of life from a thread, whatever the main thread does; false: from the main thread. */
  hasThread: boolean;
}

/** Told when the round is over: what happened, and the ranks that were lost. */
export type OverListener = (message: string, lost: readonly LostRank[]) => void;

export class Membership implements AsyncDisposable {
  readonly #options: MembershipOptions;
  #client!: StoreClient;
  #heartbeat: Disposable | null = null;
  #host: Worker | null = null;
  #listener: { round: number; onOver: OverListener } | null = null;
  /** The last round that was over. */
  #over: Extract<StoreEvent, { event: 'over' }> | null = null;
  #end: string | null = null;
  #hasLeft = false;

  private constructor(options: MembershipOptions) {
    this.#options = options;
  }

  /** @throws HadalError HADAL_ERR_COMM, HADAL_ERR_CONFIG */
  static async open(options: MembershipOptions): Promise<Membership> {
    const membership = new Membership(options);
    try {
      await membership.#join();
    } catch (error) {
      await membership[Symbol.asyncDispose]();
      throw error;
    }
    return membership;
  }

  get client(): StoreClient {
    return this.#client;
  }

  /** Whether rounds follow each other. */
  get hasRounds(): boolean {
    return this.#options.place.kind === 'launched';
  }

  /** Where this process listens. */
  get address(): string {
    return this.#options.address ?? commAddress(process.env.HADAL_COMM_INTERFACE) ?? this.#client.localAddress;
  }

  /** Waits for the next round. @throws HadalError HADAL_ERR_COMM */
  async arrive(step: number): Promise<Deal> {
    if (this.#end !== null) throw overError(this.#end);
    const waitMs = this.hasRounds ? null : this.#options.waitMs;
    return await this.#client.request<Deal>({ do: 'arrive', step, waitMs });
  }

  /** Who is told of the end of a round, be it over already. */
  listen(round: number, onOver: OverListener): void {
    this.#listener = { round, onOver };
    if (this.#end !== null) onOver(this.#end, []);
    else if (this.#over?.round === round) onOver(this.#over.message, this.#over.lost);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#hasLeft) return;
    this.#hasLeft = true;
    // Who hosts the run may be gone.
    await this.#client?.request({ do: 'leave' }).catch(() => {});
    this.#heartbeat?.[Symbol.dispose]();
    this.#client?.[Symbol.dispose]();
    if (!this.#host) return;
    this.#host.ref();
    const ended = once(this.#host, 'exit');
    this.#host.postMessage('close');
    await ended;
    this.#host = null;
  }

  async #join(): Promise<void> {
    const { place, token, waitMs } = this.#options;
    const { host, port } = place;
    const isHost = place.kind === 'static' && place.rank === 0;
    if (isHost) await this.#hostRun(place);
    this.#client = await StoreClient.connect({
      ...{ host, port, token, waitMs },
      onEvent: (event) => this.#hear(event),
      onClose: (reason) => this.#finish(`the process that hosts the run is gone: ${reason}`),
    });
    const of = place.kind === 'static' ? `rank ${place.rank}` : place.worker;
    const fixed =
      place.kind === 'static'
        ? { rank: place.rank, size: place.size, localRank: place.localRank, localSize: place.localSize }
        : null;
    const joined = await this.#client.request<Joined>({ do: 'join', worker: of, host: hostname(), place: fixed });
    await this.#beat({ host, port, token, of, heartbeatMs: joined.heartbeatMs });
  }

  async #beat(options: HeartbeatOptions): Promise<void> {
    const lost = (reason: string): void => {
      this.#finish(`the process that hosts the run is lost: ${reason}`);
      // What waits for an answer, by a connection that stays open where the host is stopped or cut off.
      this.#client.peer.close(reason);
    };
    if (!this.#options.hasThread) {
      this.#heartbeat = await startHeartbeat(options, lost);
      return;
    }
    const thread = startThread('./heartbeat-worker.js', options);
    thread.unref();
    thread.on('message', lost).on('error', (error) => lost(error.message));
    this.#heartbeat = { [Symbol.dispose]: () => void thread.terminate() };
  }

  /** Hosts the run beside this process, its rank 0. */
  async #hostRun({ host, port, size, localSize }: StaticPlace): Promise<void> {
    const { token, heartbeatMs } = this.#options;
    const address = await addressOf(host);
    if (isLoopback(address) && localSize !== null && localSize < size) {
      throw new HadalError(
        'HADAL_ERR_CONFIG',
        `[dist] expected MASTER_ADDR to be an address that other hosts reach, got '${host}', which here is ${address}; give an address or a name that is not loopback's`,
      );
    }
    const workerData: RendezvousOptions = {
      ...{ host: address, port, token, rules: { kind: 'static', size }, timing: { heartbeatMs } },
    };
    this.#host = startThread('./rendezvous-worker.js', workerData);
    const [{ error }] = (await once(this.#host, 'message')) as [HostAnswer];
    this.#host.unref();
    if (error === null) return;
    this.#host = null;
    throw new HadalError('HADAL_ERR_COMM', `${error}; choose another MASTER_PORT, or set MASTER_ADDR to this host's`);
  }

  #hear(event: StoreEvent): void {
    if (event.event === 'over') {
      this.#over = event;
      if (this.#listener?.round === event.round) this.#listener.onOver(event.message, event.lost);
    }
    if (event.event === 'dismissed') this.#finish(event.message);
  }

  #finish(message: string): void {
    if (this.#end !== null || this.#hasLeft) return;
    this.#end = message;
    this.#listener?.onOver(message, []);
  }
}

/** A thread without the process's own options of Node: `--input-type`, for one, has none begin. */
function startThread(file: string, workerData: unknown): Worker {
  return new Worker(workerUrl(import.meta.url, file), { workerData, execArgv: [] });
}

/** The error of a round that is over. */
export function overError(message: string): HadalError {
  return new HadalError('HADAL_ERR_COMM', `[dist] the processes of this run are no longer all there: ${message}`);
}
