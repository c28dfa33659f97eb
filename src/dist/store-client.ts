// The connection of a process of a run to the one that hosts it.
import { HadalError } from '../core/errors.js';
import type { Reply, Request } from './rendezvous-messages.js';
import { connect, type Peer } from './transport.js';

/** What nobody asked for. */
export type StoreEvent = Extract<Reply, { event: string }>;

export interface StoreClientOptions {
  host: string;
  port: number;
  token: string;
  /** How long it is tried: the host of the run may come later. */
  waitMs: number;
  signal?: AbortSignal;
  onEvent?(event: StoreEvent): void;
  onClose?(reason: string): void;
}

const retryMs = 200;
/** Attempts that fail although something listens. */
const mostRefusals = 3;

export class StoreClient implements Disposable {
  readonly #pending = new Map<number, { resolve: (value: unknown) => void; reject: (error: Error) => void }>();
  #nextId = 0;
  #closed: string | null = null;

  private constructor(
    readonly peer: Peer,
    { onEvent, onClose }: StoreClientOptions,
  ) {
    peer.receive({
      onMessage: (message) => {
        const reply = message as Reply;
        if ('event' in reply) onEvent?.(reply);
        else this.#settle(reply);
      },
      onClose: (reason) => {
        this.#closed = reason;
        for (const { reject } of this.#pending.values()) reject(lostHost(reason));
        this.#pending.clear();
        onClose?.(reason);
      },
    });
  }

  /** @throws HadalError HADAL_ERR_COMM when nobody who knows the token is there in time; HADAL_ERR_ABORTED */
  static async connect(options: StoreClientOptions): Promise<StoreClient> {
    const { host, port, token, waitMs, signal } = options;
    const end = performance.now() + waitMs;
    for (let refusals = 0; ; ) {
      try {
        const peer = await connect({ ...{ host, port, token, payloadBytes: 0 }, ...(signal && { signal }) });
        return new StoreClient(peer, options);
      } catch (error) {
        // The system's error: nobody listens yet, or the name is not known yet.
        const isRefusal = ((error as Error).cause as NodeJS.ErrnoException | undefined)?.code === undefined;
        if (isRefusal) refusals++;
        if (refusals === mostRefusals || performance.now() > end || signal?.aborted) throw error;
        await new Promise((resolve) => setTimeout(resolve, retryMs));
      }
    }
  }

  /** The address that the host of the run sees. */
  get localAddress(): string {
    return this.peer.localAddress;
  }

  /** @throws HadalError HADAL_ERR_COMM with the answer, where it is an error, or when the connection closes */
  async request<T>(ask: Request): Promise<T> {
    if (this.#closed !== null) throw lostHost(this.#closed);
    const id = this.#nextId++;
    const answer = new Promise<unknown>((resolve, reject) => this.#pending.set(id, { resolve, reject }));
    this.peer.send({ id, ask });
    return (await answer) as T;
  }

  async set(key: string, value: string): Promise<void> {
    await this.request({ do: 'set', key, value });
  }

  /** The values of all keys, as soon as they are there, or after the time which of them are missing. */
  get(keys: string[], waitMs: number): Promise<{ values: string[] } | { missing: string[] }> {
    return this.request({ do: 'get', keys, waitMs });
  }

  /** @returns the sum */
  add(key: string, by: number): Promise<number> {
    return this.request({ do: 'add', key, by });
  }

  /** @returns how many there were */
  delete(keys: string[]): Promise<number> {
    return this.request({ do: 'delete', keys });
  }

  [Symbol.dispose](): void {
    this.peer.close();
  }

  #settle(reply: Exclude<Reply, StoreEvent>): void {
    const pending = this.#pending.get(reply.id);
    this.#pending.delete(reply.id);
    if ('error' in reply) pending?.reject(new HadalError('HADAL_ERR_COMM', `[dist] ${reply.error}`));
    else pending?.resolve(reply.value);
  }
}

function lostHost(reason: string): HadalError {
  return new HadalError(
    'HADAL_ERR_COMM',
    `[dist] expected the process that hosts the run, got none any more: ${reason}`,
  );
}
