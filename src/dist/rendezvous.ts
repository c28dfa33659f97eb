// The process that hosts a run: a store of values, and the rounds of its processes, over the transport.
import { shown } from '../core/expectation.js';
import { type Enlisted, type Joined, type Reply, type Request, requestSchema } from './rendezvous-messages.js';
import { defaultTiming, type ElasticRules, Rounds, type StaticRules, type Timing } from './rendezvous-rounds.js';
import { KeyValueStore } from './store.js';
import { type Listener, listen, type Peer } from './transport.js';

export interface RendezvousOptions {
  host: string;
  /** 0: any that is free. */
  port: number;
  token: string;
  rules: StaticRules | ElasticRules;
  timing?: Partial<Timing>;
  log?(line: string): void;
  /** The run is over. */
  onEnd?(status: number, message: string): void;
}

/** Hosts a run until it is disposed. */
export class Rendezvous implements AsyncDisposable {
  readonly rounds: Rounds;
  readonly #store = new KeyValueStore();
  readonly #timing: Timing;
  readonly #timer: NodeJS.Timeout;
  #listener: Listener | null = null;

  private constructor({ rules, timing, log, onEnd }: RendezvousOptions) {
    this.#timing = { ...defaultTiming, ...timing };
    const tickMs = Math.min(1000, Math.max(10, this.#timing.heartbeatMs / 20));
    // A clock that stands still while this process does: it could not have heard of anybody.
    let clockMs = performance.now();
    let lastMs = clockMs;
    const onRound = (): void => this.#store.clear();
    this.rounds = new Rounds(rules, this.#timing, clockMs, log ?? (() => {}), onRound, onEnd ?? (() => {}));
    this.#timer = setInterval(() => {
      const now = performance.now();
      clockMs += Math.min(now - lastMs, 2 * tickMs);
      lastMs = now;
      this.rounds.tick(clockMs);
    }, tickMs);
  }

  /** @throws HadalError HADAL_ERR_COMM when the address cannot be had */
  static async open(options: RendezvousOptions): Promise<Rendezvous> {
    const { host, port, token, log } = options;
    const rendezvous = new Rendezvous(options);
    try {
      rendezvous.#listener = await listen({
        ...{ host, port, token, payloadBytes: 0 },
        onPeer: (peer) => rendezvous.#serve(peer),
        onRefused: (address, reason) => log?.(`refused a connection from ${address}: ${reason}`),
      });
    } catch (error) {
      clearInterval(rendezvous.#timer);
      throw error;
    }
    return rendezvous;
  }

  get port(): number {
    return (this.#listener as Listener).port;
  }

  /** Waits until all processes have left or are lost, but no longer than that. */
  async settled(ms: number): Promise<void> {
    const end = performance.now() + ms;
    while (!this.rounds.isEmpty && performance.now() < end) await new Promise((resolve) => setTimeout(resolve, 20));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer);
    await this.#listener?.[Symbol.asyncDispose]();
  }

  #serve(peer: Peer): void {
    const connection = new Connection(peer, this.rounds, this.#store, { heartbeatMs: this.#timing.heartbeatMs });
    peer.receive({
      onMessage: (message) => {
        const parsed = requestSchema.safeParse(message);
        if (!parsed.success) throw new Error(`it asked for what there is not: ${shown(message)}`);
        connection.answer(parsed.data.id, parsed.data.ask);
      },
      onClose: (reason) => connection.closed(reason),
    });
  }
}

/** One connection: of a process, of a launcher, or of the heartbeats of one of them. */
class Connection {
  #worker: string | null = null;
  #node: number | null = null;
  #beatsOf: string | null = null;
  /** Number of the request of a process that waits for a round. */
  #arrival: number | null = null;
  readonly #waits = new Set<() => void>();

  constructor(
    readonly peer: Peer,
    readonly rounds: Rounds,
    readonly store: KeyValueStore,
    readonly joined: Joined,
  ) {}

  answer(id: number, ask: Request): void {
    try {
      const value = this.#valueOf(id, ask);
      if (value !== undefined) this.#send({ id, value });
    } catch (error) {
      this.#send({ id, error: (error as Error).message });
    }
  }

  closed(reason: string): void {
    for (const end of this.#waits) end();
    if (this.#worker !== null) this.rounds.hangUp(this.#worker, reason);
    if (this.#beatsOf !== null) this.rounds.hangUp(this.#beatsOf, reason);
    if (this.#node !== null) this.rounds.loseLauncher(this.#node, reason);
  }

  #send(reply: Reply): void {
    try {
      this.peer.send(reply);
    } catch (error) {
      // Values beyond what a message may hold, in the way of whoever asked for them alone.
      if ('id' in reply) this.peer.send({ id: reply.id, error: (error as Error).message });
      else throw error;
    }
  }

  /** @returns undefined where the answer comes later */
  #valueOf(id: number, ask: Request): unknown {
    switch (ask.do) {
      case 'set':
        this.store.set(ask.key, ask.value);
        return null;
      case 'get':
        return this.#get(id, ask.keys, ask.waitMs);
      case 'add':
        return this.store.add(ask.key, ask.by);
      case 'delete':
        return this.store.delete(ask.keys);
      case 'join':
        return this.#join(ask);
      case 'arrive':
        this.#arrival = id;
        this.rounds.arrive(this.#own(), ask.step, ask.waitMs);
        return undefined;
      case 'leave':
        this.rounds.leave(this.#own());
        this.#worker = null;
        return null;
      case 'left':
        return this.rounds.left();
      case 'enlist':
        return this.#enlist(ask);
      case 'ended':
        this.rounds.ended(ask.worker, ask.status, ask.signal);
        return null;
      case 'beat':
        this.rounds.beat(ask.of);
        this.#beatsOf = ask.of;
        return null;
    }
  }

  #get(id: number, keys: readonly string[], waitMs: number): undefined {
    const finish = (value: { values: string[] } | { missing: string[] }): void => {
      clearTimeout(timer);
      stop();
      this.#waits.delete(end);
      this.#send({ id, value });
    };
    const timer = setTimeout(() => finish({ missing: this.store.missing(keys) }), waitMs);
    let stop = (): void => {};
    const end = (): void => {
      clearTimeout(timer);
      stop();
    };
    this.#waits.add(end);
    stop = this.store.get(keys, (values) => finish({ values }));
    return undefined;
  }

  #join({ worker, host, place }: Extract<Request, { do: 'join' }>): Joined {
    const refusal = this.rounds.join(worker, host, place, {
      dealt: (deal) => {
        if (this.#arrival !== null) this.#send({ id: this.#arrival, value: deal });
        this.#arrival = null;
      },
      over: (round, message, lost) => this.#send({ event: 'over', round, message, lost }),
      dismissed: (message) => {
        if (this.#arrival !== null) this.#send({ id: this.#arrival, error: message });
        this.#arrival = null;
        this.#send({ event: 'dismissed', message });
      },
    });
    if (refusal !== null) throw new Error(refusal);
    this.#worker = worker;
    return this.joined;
  }

  #enlist({ node, processes, host }: Extract<Request, { do: 'enlist' }>): Enlisted {
    const workers = this.rounds.enlist(node, processes, host, {
      start: (worker) => this.#send({ event: 'start', worker }),
      kill: (worker) => this.#send({ event: 'kill', worker }),
      dealt: (round, ranks) => this.#send({ event: 'dealt', round, ranks }),
      dismissed: (reason) => {
        // After a cut the launcher comes back on another connection; the end of this one may be heard of only then.
        this.#node = null;
        this.peer.close(reason);
      },
      end: (status, message) => this.#send({ event: 'end', status, message }),
    });
    if (typeof workers === 'string') throw new Error(workers);
    this.#node = node;
    return { ...this.joined, workers };
  }

  #own(): string {
    if (this.#worker === null) throw new Error('expected a process that has joined');
    return this.#worker;
  }
}
