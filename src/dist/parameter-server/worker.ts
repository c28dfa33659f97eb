// The worker's part of the protocol; see protocol.ts.
import type { ToCoordinator, ToServer, ToWorker } from './messages.js';

/** What a worker must do, beside what it sends. Done in the order given. */
type WorkerTask =
  /** Write the tensors of the message at hand into the cache. */
  | { do: 'load' }
  /** Compute the gradient of a micro-batch at the parameters of the cache; {@link Worker.computed}. */
  | { do: 'compute'; ticket: number; microBatch: number }
  /** Send each server its part of the gradient that was computed last. */
  | { do: 'push'; message: ToServer & { type: 'push' } };

/** What a worker answers with. */
export interface WorkerAnswers {
  toCoordinator: ToCoordinator[];
  /** To every server that it is addressed to, by number. */
  toServers: { to: number; message: ToServer }[];
  tasks: WorkerTask[];
}

/** A worker: with a cache of the parameters, and of the gradient that is not accepted yet. */
export class Worker {
  hasEnded = false;
  readonly counts = { accepted: 0, refused: 0 };
  /** Of the parameters of each server in the cache; −1: none. */
  readonly #have: number[];
  #work: (ToWorker & { type: 'work' }) | null = null;
  #phase: 'idle' | 'pulling' | 'computing' | 'pushing' = 'idle';
  #push: (ToServer & { type: 'push' }) | null = null;
  /** The greatest ticket seen: what comes of older ones is late. */
  #ticket = -1;

  constructor(
    /** No other worker's, nor of an earlier life of this one. */
    readonly name: string,
    servers: number,
  ) {
    this.#have = new Array<number>(servers).fill(-1);
  }

  /** The version of the cache: the oldest of its parts. */
  get version(): number {
    return Math.min(...this.#have);
  }

  receive(message: ToWorker): WorkerAnswers {
    switch (message.type) {
      case 'work': {
        if (message.ticket <= this.#ticket) return answers();
        // Nothing is dealt to who has something open: what it pushed is accepted, or its lease had ended.
        this.#ticket = message.ticket;
        this.#work = message;
        this.#push = null;
        return this.#pull();
      }
      case 'parameters': {
        const { server, since, version } = message;
        const have = this.#have[server];
        // Since before what is had: nothing is missing between.
        if (have === undefined || since > have || version <= have || this.#phase === 'computing') return answers();
        this.#have[server] = version;
        const load: WorkerTask = { do: 'load' };
        if (this.#phase !== 'pulling' || !this.#work || this.version < this.#work.version)
          return answers({ tasks: [load] });
        this.#phase = 'computing';
        const { ticket, microBatch } = this.#work;
        return answers({ tasks: [load, { do: 'compute', ticket, microBatch }] });
      }
      case 'accepted':
      case 'refused': {
        if (message.ticket !== this.#work?.ticket) return answers();
        if (message.type === 'refused') this.counts.refused++;
        else this.counts.accepted++;
        this.#work = null;
        this.#push = null;
        this.#phase = 'idle';
        // Who is accepted is dealt to next unasked.
        return message.type === 'refused' ? this.tick() : answers();
      }
      case 'end':
        this.hasEnded = true;
        return answers();
    }
  }

  /** The gradient of a micro-batch is at hand. @param tokens - that it is the mean over */
  computed(ticket: number, tokens: number): WorkerAnswers {
    if (this.#phase !== 'computing' || this.#work?.ticket !== ticket) return answers();
    this.#phase = 'pushing';
    this.#push = { type: 'push', worker: this.name, ticket, tokens, version: this.version };
    return answers({ tasks: [{ do: 'push', message: this.#push }] });
  }

  /** Asks for work, or says that it lives. To be called some times in the length of a lease. */
  tick(): WorkerAnswers {
    const { name: worker } = this;
    if (this.hasEnded) return answers();
    return answers({
      toCoordinator: [this.#work ? { type: 'beat', worker, ticket: this.#work.ticket } : { type: 'ask', worker }],
    });
  }

  /** Says again all that was not answered. To be called when messages may be lost: after a new connection. */
  again(): WorkerAnswers {
    const { toCoordinator } = this.tick();
    if (this.#phase === 'pulling') return { ...this.#pull(), toCoordinator };
    return answers({ toCoordinator, tasks: this.#push ? [{ do: 'push', message: this.#push }] : [] });
  }

  leave(): WorkerAnswers {
    this.hasEnded = true;
    return answers({ toCoordinator: [{ type: 'leave', worker: this.name }] });
  }

  #pull(): WorkerAnswers {
    const { name: worker } = this;
    const { version: atLeast, ticket, microBatch } = this.#work as ToWorker & { type: 'work' };
    const behind = this.#have.flatMap((have, to) => (have < atLeast ? [{ to, have }] : []));
    if (behind.length === 0) {
      this.#phase = 'computing';
      return answers({ tasks: [{ do: 'compute', ticket, microBatch }] });
    }
    this.#phase = 'pulling';
    return answers({
      toServers: behind.map(({ to, have }) => ({ to, message: { type: 'pull', worker, have, atLeast } })),
    });
  }
}

const answers = (some: Partial<WorkerAnswers> = {}): WorkerAnswers => ({
  toCoordinator: [],
  toServers: [],
  tasks: [],
  ...some,
});
