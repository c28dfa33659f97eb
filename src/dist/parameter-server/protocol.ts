// The parameter server's protocol: asynchronous updates of bounded staleness (Ho et al. 2013, "More effective distributed ML
// via a stale synchronous parallel parameter server") in which workers come, go, and are of any speed.
//
// The run is a list of micro-batches; update u takes as many as the schedule says. The coordinator deals them: `work` names a
// micro-batch and the version (the number of updates) of the parameters that its gradient is to be computed at, and has a
// ticket, a number that is given once. The worker pulls what has changed, computes, pushes; each server keeps its part of the
// gradient and tells the coordinator. When all have it, the push is accepted.
//
// What holds at any time, whatever messages are lost, doubled, late or out of order:
//   once       a ticket is accepted at most once, and a micro-batch that was accepted is never dealt again: each is trained on
//              exactly once, also that of a worker that is lost
//   staleness  update u takes no gradient computed at a version below u − s. An update waits for slower workers where it would
//              make their gradients too old, and nothing is dealt that could not be taken in time
//   liveness   who does not renew its lease is out: it holds nobody back, and what it pushes later is refused, counted, told.
//              One living worker is enough for the run to go on
//   barriers   at certain updates nothing is in flight: what was trained on is then the beginning of the list, exactly
//
// No clocks: callers say what time it is (milliseconds of any origin). No sockets: messages in, messages out. No numbers:
// payloads are the callers'. Whoever gets no answer says it again. The worker's part: worker.ts.
import { invariant } from '../../core/errors.js';
import type { ToCoordinator, ToServer, ToWorker } from './messages.js';

/** A message on its way: to a worker by its name, to a server by its number. */
export type Sent = { to: string; message: ToWorker } | { to: number; message: ToServer };

export interface CoordinatorOptions {
  servers: number;
  /** s: updates between the one that parameters are of and the one that a gradient computed at them becomes part of. */
  staleness: number;
  /** Without a sign of life for so long, a worker is out. */
  leaseMs: number;
  /** Updates already made. */
  start: number;
  /** Micro-batches that all updates before this one take. */
  before(update: number): number;
  /** The first update, counted from 1, behind which nothing may be in flight: of those greater than `version`; the run's last is one. */
  barrierAfter(version: number): number;
  /** Updates of the whole run. */
  steps: number;
}

/** A micro-batch that was dealt and is not in an update yet. */
interface InFlight {
  ticket: number;
  microBatch: number;
  /** Of the parameters that it was dealt with. */
  version: number;
  worker: string;
  /** Servers that have their part of its gradient. */
  stored: Set<number>;
  tokens: number;
}

interface Member {
  leaseEndsMs: number;
  /** Dealt and not accepted. */
  ticket: number | null;
  /** The last one accepted. */
  accepted: number | null;
  /** Asked for work that could not be dealt. */
  isIdle: boolean;
}

/** An update under way: summed by every server, then, with the norm of all, applied. */
interface Update {
  update: number;
  parts: { ticket: number; weight: number }[];
  /** Squared norms by server; null: not finite. */
  summed: Map<number, number | null>;
  applied: Set<number>;
}

/** Deals micro-batches and decides on updates. */
export class Coordinator {
  /** Updates decided on; the last of them may be under way. */
  version: number;
  readonly counts = { accepted: 0, stale: 0, late: 0, repeated: 0, joined: 0, left: 0, expired: 0 };
  /** How many gradients were taken how many updates after the version that they were dealt with. */
  readonly staleness: number[] = [];
  readonly #members = new Map<string, Member>();
  /** By ticket: being computed or pushed. */
  readonly #open = new Map<number, InFlight>();
  /** Accepted, to be part of an update, in order of arrival. */
  #waiting: InFlight[] = [];
  /** Tickets whose workers lost their lease. */
  readonly #lost = new Set<number>();
  #update: Update | null = null;
  /** Micro-batches that come back from lost workers, in order. */
  #returned: number[] = [];
  /** The first micro-batch that was never dealt. */
  #next: number;
  #ticket = 0;
  #last: number;
  #out: Sent[] = [];

  constructor(private readonly options: CoordinatorOptions) {
    this.version = options.start;
    this.#next = options.before(options.start);
    this.#last = options.steps;
  }

  /** Whether every update is made. */
  get hasEnded(): boolean {
    return this.version >= this.#last && !this.#update;
  }

  /** Workers whose leases last. */
  get workers(): string[] {
    return [...this.#members.keys()];
  }

  /** Ends the run at the next update at which nothing need be in flight. */
  endSoon(): Sent[] {
    while (this.#last > this.version && this.options.before(this.#last - 1) >= this.#next) this.#last--;
    return this.#settled();
  }

  receive(message: ToCoordinator, now: number): Sent[] {
    if ('worker' in message) this.#renew(message.worker, now);
    switch (message.type) {
      case 'ask':
        this.#ask(message.worker, now);
        break;
      case 'beat':
        this.#beat(message);
        break;
      case 'leave':
        if (this.#remove(message.worker)) this.counts.left++;
        break;
      case 'stored':
        this.#store(message);
        break;
      case 'summed':
        this.#summed(message);
        break;
      case 'applied':
        this.#applied(message);
    }
    return this.#settled();
  }

  /** Ends leases, and says again what servers have not answered. */
  tick(now: number): Sent[] {
    for (const [worker, { leaseEndsMs }] of this.#members) {
      if (leaseEndsMs > now) continue;
      this.#remove(worker);
      this.counts.expired++;
    }
    const update = this.#update;
    if (update) {
      const isSummed = update.summed.size === this.options.servers;
      if (isSummed) this.#toServers(this.#apply(update), (server) => !update.applied.has(server));
      else this.#toServers(this.#sum(update), (server) => !update.summed.has(server));
    }
    return this.#settled();
  }

  #ask(worker: string, now: number): void {
    let member = this.#members.get(worker);
    if (!member) {
      member = { leaseEndsMs: now + this.options.leaseMs, ticket: null, accepted: null, isIdle: true };
      this.#members.set(worker, member);
      this.counts.joined++;
    }
    const open = member.ticket === null ? undefined : this.#open.get(member.ticket);
    if (open) this.#toWorker(worker, workOf(open));
    else member.isIdle = true;
  }

  #beat({ worker, ticket }: { worker: string; ticket: number }): void {
    const member = this.#members.get(worker);
    if (member?.accepted === ticket) this.#toWorker(worker, { type: 'accepted', ticket });
    else if (member?.ticket !== ticket) this.#toWorker(worker, { type: 'refused', ticket, reason: 'late' });
  }

  /** A push, as far as one server is concerned. */
  #store({ server, worker, ticket, tokens, version }: ToCoordinator & { type: 'stored' }): void {
    const dealt = this.#open.get(ticket);
    const open = dealt?.worker === worker ? dealt : undefined;
    const member = this.#members.get(worker);
    if (open && member && version >= open.version) {
      open.stored.add(server);
      if (open.stored.size < this.options.servers) return;
      this.#open.delete(ticket);
      this.#waiting.push({ ...open, tokens });
      Object.assign(member, { ticket: null, accepted: ticket, isIdle: true });
      this.counts.accepted++;
      this.#toWorker(worker, { type: 'accepted', ticket });
      return;
    }
    const isKept = [...this.#waiting, ...(this.#update?.parts ?? [])].some((one) => one.ticket === ticket);
    if (!isKept) this.#toServer(server, { type: 'discard', ticket });
    if (isKept || member?.accepted === ticket) {
      this.counts.repeated++;
      this.#toWorker(worker, { type: 'accepted', ticket });
      return;
    }
    if (open) this.#close(open); // computed at older parameters than it was dealt with
    const reason = this.version - version > this.options.staleness || open ? 'stale' : 'late';
    if (open || this.#lost.delete(ticket)) this.counts[reason]++;
    this.#toWorker(worker, { type: 'refused', ticket, reason });
  }

  #summed({ server, update, squaredNorm }: ToCoordinator & { type: 'summed' }): void {
    const current = this.#update;
    if (current?.update !== update || current.summed.has(server)) return;
    current.summed.set(server, squaredNorm);
    if (current.summed.size === this.options.servers) this.#toServers(this.#apply(current));
  }

  #applied({ server, update }: ToCoordinator & { type: 'applied' }): void {
    if (this.#update?.update !== update) return;
    this.#update.applied.add(server);
    if (this.#update.applied.size === this.options.servers) this.#update = null;
  }

  #renew(worker: string, now: number): void {
    const member = this.#members.get(worker);
    if (member) member.leaseEndsMs = now + this.options.leaseMs;
  }

  #remove(worker: string): boolean {
    const member = this.#members.get(worker);
    const open = this.#open.get(member?.ticket ?? -1);
    if (open) this.#close(open);
    if (open) this.#lost.add(open.ticket);
    return this.#members.delete(worker);
  }

  /** Gives a micro-batch back, to be dealt again. */
  #close({ ticket, worker, microBatch }: InFlight): void {
    this.#open.delete(ticket);
    const member = this.#members.get(worker);
    if (member) Object.assign(member, { ticket: null, isIdle: true });
    this.#returned.push(microBatch);
    this.#returned.sort((a, b) => a - b);
    this.#toServers({ type: 'discard', ticket });
  }

  /** Does all that can be done now. @returns the messages since the last call */
  #settled(): Sent[] {
    this.#decide();
    for (const [worker, member] of this.#members) {
      if (!member.isIdle) continue;
      if (this.hasEnded) this.#toWorker(worker, { type: 'end' });
      else if (!this.#deal(worker, member)) break;
      member.isIdle = false;
      // To the end of the line: who waited longest is the first to be dealt to.
      this.#members.delete(worker);
      this.#members.set(worker, member);
    }
    return this.#out.splice(0);
  }

  /** Begins the next update when its micro-batches are there: the oldest first, and only if all others stay in time. */
  #decide(): void {
    const { version, options } = this;
    const count = options.before(version + 1) - options.before(version);
    if (this.#update || version >= this.#last || this.#waiting.length < count) return;
    const sorted = this.#waiting.toSorted((a, b) => a.version - b.version);
    const [taken, rest] = [sorted.slice(0, count), new Set(sorted.slice(count))];
    if (!this.#isInTime([...rest, ...this.#open.values()], version + 1)) return;
    this.#waiting = this.#waiting.filter((one) => rest.has(one));
    for (const one of taken) {
      const age = version - one.version;
      this.staleness[age] = (this.staleness[age] ?? 0) + 1;
    }
    const tokens = taken.reduce((sum, one) => sum + one.tokens, 0);
    const parts = taken.map((one) => ({ ticket: one.ticket, weight: tokens > 0 ? one.tokens / tokens : 1 / count }));
    this.#update = { update: version, parts, summed: new Map(), applied: new Set() };
    this.version++;
    this.#toServers(this.#sum(this.#update));
  }

  #deal(worker: string, member: Member): boolean {
    const { version, options } = this;
    const barrier = Math.min(options.barrierAfter(version), this.#last);
    const microBatch = this.#returned[0] ?? this.#next;
    const work: InFlight = { ticket: this.#ticket, microBatch, version, worker, stored: new Set(), tokens: 0 };
    const isNext = microBatch < options.before(barrier);
    if (!isNext || !this.#isInTime([...this.#waiting, ...this.#open.values(), work], version)) return false;
    if (this.#returned.length > 0) this.#returned.shift();
    else this.#next++;
    this.#ticket++;
    this.#open.set(work.ticket, work);
    member.ticket = work.ticket;
    this.#toWorker(worker, workOf(work));
    return true;
  }

  /**
   * Whether updates from `next` on can take all of these within the bound, the oldest first: those of version v and older are
   * no more than what the updates up to v + s have room for.
   */
  #isInTime(inFlight: readonly InFlight[], next: number): boolean {
    const { before, staleness } = this.options;
    const counts = new Map<number, number>();
    for (const { version } of inFlight) counts.set(version, (counts.get(version) ?? 0) + 1);
    let older = 0;
    for (const [version, count] of [...counts].sort(([a], [b]) => a - b)) {
      older += count;
      if (older > before(version + staleness + 1) - before(next)) return false;
    }
    return true;
  }

  #sum = ({ update, parts }: Update): ToServer => ({ type: 'sum', update, parts });

  #apply({ update, summed }: Update): ToServer {
    const norms = [...summed].sort(([a], [b]) => a - b).map(([, norm]) => norm);
    const squaredNorm = norms.includes(null) ? null : norms.reduce<number>((sum, norm) => sum + (norm ?? 0), 0);
    return { type: 'apply', update, squaredNorm };
  }

  #toWorker(to: string, message: ToWorker): void {
    this.#out.push({ to, message });
  }

  #toServer(to: number, message: ToServer): void {
    this.#out.push({ to, message });
  }

  #toServers(message: ToServer, isAddressed: (server: number) => boolean = () => true): void {
    for (let server = 0; server < this.options.servers; server++) {
      if (isAddressed(server)) this.#toServer(server, message);
    }
  }
}

const workOf = ({ ticket, microBatch, version }: InFlight): ToWorker => ({ type: 'work', ticket, microBatch, version });

/** What a server must do, beside what it sends. Done in the order given. */
type ServerTask<Gradient> =
  /** Gradient ← Σ weight · part; {@link Shard.summed} when it is done. */
  | { do: 'sum'; parts: { gradient: Gradient; weight: number }[] }
  /** Update its parameters with that gradient, of which the whole of all servers has this squared norm; {@link Shard.applied}. */
  | { do: 'apply'; update: number; squaredNorm: number | null }
  /** Send `parameters` with these tensors. */
  | { do: 'send'; worker: string; message: ToWorker & { type: 'parameters' } };

/** What a server answers with. */
export interface Answers<Gradient> {
  toCoordinator: ToCoordinator[];
  tasks: ServerTask<Gradient>[];
}

/** A server's part: some of the tensors, and the parts of gradients that are not in an update yet. */
export class Shard<Gradient> {
  version: number;
  readonly #stored = new Map<number, Gradient>();
  readonly #pulls = new Map<string, { have: number; atLeast: number }>();
  /** By tensor: the version since which it is as it is. */
  readonly #since: number[];
  #sum: { tickets: number[]; squaredNorm?: number | null } | null = null;
  #isApplying = false;

  constructor(
    readonly server: number,
    { start, tensors }: { start: number; tensors: number },
  ) {
    this.version = start;
    this.#since = new Array<number>(tensors).fill(start);
  }

  /** @param gradient - the payload of a push */
  receive(message: ToServer, gradient?: Gradient): Answers<Gradient> {
    const { server } = this;
    switch (message.type) {
      case 'push': {
        const { type, ...what } = message;
        if (gradient !== undefined && !this.#stored.has(message.ticket)) this.#stored.set(message.ticket, gradient);
        return answer([{ type: 'stored', server, ...what }]);
      }
      case 'pull':
        this.#pulls.set(message.worker, message);
        return answer([], this.#answered());
      case 'discard':
        if (!this.#sum?.tickets.includes(message.ticket)) this.#stored.delete(message.ticket);
        return answer();
      case 'sum': {
        if (message.update !== this.version) return answer();
        if (this.#sum) return answer(this.#summedMessage());
        const parts = message.parts.map(({ ticket, weight }) => {
          const part = this.#stored.get(ticket);
          invariant(part !== undefined, `server ${server} is to sum push ${ticket}, which it does not have`);
          return { gradient: part, weight };
        });
        this.#sum = { tickets: message.parts.map(({ ticket }) => ticket) };
        return answer([], [{ do: 'sum', parts }]);
      }
      case 'apply': {
        const { update, squaredNorm } = message;
        if (update < this.version) return answer([{ type: 'applied', server, update }]);
        if (this.#isApplying || update > this.version || this.#sum?.squaredNorm === undefined) return answer();
        this.#isApplying = true;
        return answer([], [{ do: 'apply', update, squaredNorm }]);
      }
    }
  }

  /** The sum that was asked for is made. @param squaredNorm - null: it is not finite */
  summed(squaredNorm: number | null): Answers<Gradient> {
    invariant(this.#sum, 'no sum was asked for');
    this.#sum.squaredNorm = squaredNorm;
    return answer(this.#summedMessage());
  }

  /** The update that was asked for is made. @param changed - which tensors it changed */
  applied(changed: Iterable<number>): Answers<Gradient> {
    const update = this.version++;
    for (const tensor of changed) this.#since[tensor] = this.version;
    for (const ticket of this.#sum?.tickets ?? []) this.#stored.delete(ticket);
    this.#sum = null;
    this.#isApplying = false;
    return answer([{ type: 'applied', server: this.server, update }], this.#answered());
  }

  #summedMessage(): ToCoordinator[] {
    const squaredNorm = this.#sum?.squaredNorm;
    return squaredNorm === undefined
      ? []
      : [{ type: 'summed', server: this.server, update: this.version, squaredNorm }];
  }

  /** What pulls can be answered now: none while the parameters change. */
  #answered(): ServerTask<Gradient>[] {
    if (this.#isApplying) return [];
    const { server, version } = this;
    const ready = [...this.#pulls].filter(([, { atLeast }]) => atLeast <= version);
    return ready.map(([worker, { have }]) => {
      this.#pulls.delete(worker);
      const tensors = this.#since.flatMap((since, i) => (since > have ? [i] : []));
      return { do: 'send', worker, message: { type: 'parameters', server, since: have, version, tensors } };
    });
  }
}

function answer<Gradient>(toCoordinator: ToCoordinator[] = [], tasks: ServerTask<Gradient>[] = []): Answers<Gradient> {
  return { toCoordinator, tasks };
}
