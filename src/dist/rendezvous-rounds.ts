// Rounds: which processes train together, and what happens when one is lost or comes. State alone, without a network or a clock.
//
//   starting → waiting → running → summoned → waiting → …
// A process that is lost at any point, or fails, ends the round; the others are summoned to the next one, which begins when
// all that are alive wait for it.
import { type Deal, type LostRank, launcherName } from './rendezvous-messages.js';

/** To a process. */
export interface WorkerLink {
  dealt(deal: Deal): void;
  over(round: number, message: string, lost: LostRank[]): void;
  /** It takes part no more. */
  dismissed(message: string): void;
}

/** To the launcher of a host. */
export interface LauncherLink {
  start(worker: string): void;
  kill(worker: string): void;
  dealt(round: number, ranks: Record<string, number>): void;
  /** It counts as lost and may come anew; nothing more is heard of this link. */
  dismissed(reason: string): void;
  end(status: number, message: string): void;
}

/** The place that a process was given by a launcher that makes no rounds. */
export interface FixedPlace {
  rank: number;
  size: number;
  localRank: number | null;
  localSize: number | null;
}

/** Processes that are what they are: the first one lost is the end. */
export interface StaticRules {
  kind: 'static';
  size: number;
}

/** Processes that launchers start and start again. */
export interface ElasticRules {
  kind: 'elastic';
  minNodes: number;
  maxNodes: number;
  /** The fewest processes to go on with; null: those of minNodes hosts. */
  minProcesses: number | null;
  /** Processes started again over the whole run. */
  maxRestarts: number;
}

export interface Timing {
  /** Silence after which a process or launcher is lost. */
  heartbeatMs: number;
  /** From its start to its joining. */
  startMs: number;
  /** From the end of a round to its waiting for the next. */
  nextRoundMs: number;
  /** How long the first round waits for more hosts than it needs. */
  lastCallMs: number;
  /** How long a run goes on without hosts that it needs. */
  hostMs: number;
}

export const defaultTiming: Timing = {
  heartbeatMs: 10_000,
  startMs: 120_000,
  nextRoundMs: 15_000,
  lastCallMs: 3_000,
  hostMs: 300_000,
};

/** Between a closed connection and the process's end, whose status says more. */
const closeGraceMs = 1000;

interface Worker {
  id: string;
  node: number;
  /** Among those of its host. */
  index: number;
  host: string;
  place: FixedPlace | null;
  phase: 'starting' | 'waiting' | 'running' | 'summoned' | 'left' | 'lost';
  sinceMs: number;
  heardMs: number | null;
  /** Of the round that it is or was in last. */
  rank: number | null;
  step: number;
  waitMs: number | null;
  link: WorkerLink | null;
  killMs: number | null;
  hasEnded: boolean;
}

interface Launcher {
  node: number;
  host: string;
  processes: number;
  heardMs: number;
  link: LauncherLink;
}

export class Rounds {
  readonly #workers = new Map<string, Worker>();
  readonly #launchers = new Map<number, Launcher>();
  #generation = 0;
  #round = -1;
  #isRunning = false;
  #restarts = 0;
  #isInterrupted = false;
  #isDone = false;
  #gatheringMs: number;
  #hasLost = false;
  /** Why the last round ended, where no process was lost: of what keeps happening there must be an end, too. */
  #complaint: string | null = null;
  #now: number;

  constructor(
    readonly rules: StaticRules | ElasticRules,
    readonly timing: Timing,
    nowMs: number,
    readonly log: (line: string) => void,
    /** A round begins. */
    readonly onRound: () => void,
    /** The run is over. */
    readonly onEnd: (status: number, message: string) => void,
  ) {
    this.#now = nowMs;
    this.#gatheringMs = nowMs;
  }

  get isDone(): boolean {
    return this.#isDone;
  }

  /** Processes that are there and have neither left nor been lost. */
  get isEmpty(): boolean {
    return this.#alive().length === 0;
  }

  /** The launcher of a host comes. @returns the processes that it starts, or why it may not */
  enlist(node: number, processes: number, host: string, link: LauncherLink): string[] | string {
    if (this.rules.kind === 'static') return 'this run has no launchers';
    if (this.#isDone) return 'the run is over';
    if (this.#launchers.has(node)) return `host ${node} is there already; give each host a --node-rank of its own`;
    if (this.#launchers.size >= this.rules.maxNodes) return `there are ${this.#launchers.size} hosts already`;
    this.#launchers.set(node, { node, host, processes, heardMs: this.#now, link });
    return Array.from({ length: processes }, (_, index) => this.#add(node, index, host).id);
  }

  /** Its connection is closed, or it is silent. */
  loseLauncher(node: number, reason: string): void {
    const launcher = this.#launchers.get(node);
    if (!launcher) return;
    this.#launchers.delete(node);
    launcher.link.dismissed(`the others have given this host up: ${reason}`);
    if (this.#isDone) return;
    this.log(`host ${node} (${launcher.host}) is lost: ${reason}`);
    const workers = [...this.#workers.values()].filter((worker) => worker.node === node);
    const lost = workers.flatMap(({ phase, rank, host }) =>
      phase === 'running' && rank !== null ? [{ rank, host, reason }] : [],
    );
    const ranks = lost.map(({ rank }) => rank).join(', ');
    if (lost.length > 0) this.#endRound(lost, `rank ${ranks} (${launcher.host}) was lost with its host: ${reason}`);
    for (const worker of workers) {
      // It took the status of those that had ended along.
      if (worker.phase !== 'left' || !worker.hasEnded) this.lose(worker.id, `its host is lost: ${reason}`);
      this.#workers.delete(worker.id);
    }
    if (workers.length > 0 && !this.#takeRestart('waiting for it')) {
      this.#goOnWithout(`host ${node} (${launcher.host}) was lost`, 1);
    }
    this.#begin();
  }

  /** A process says that it is there. @returns why it may not be */
  join(id: string, host: string, place: FixedPlace | null, link: WorkerLink): string | null {
    if (this.#isDone) return 'the run is over';
    let worker = this.#workers.get(id);
    if (this.rules.kind === 'static') {
      if (!place || place.size !== this.rules.size) {
        return `this run has ${this.rules.size} processes, not ${place?.size ?? 'those of a launcher'}`;
      }
      if (worker) return `rank ${place.rank} is there already: two processes were given the same rank`;
      if (this.#hasLost) return 'the run has lost a process';
      worker = this.#add(0, place.rank, host, id);
    }
    if (!worker || worker.phase === 'lost') return `process ${id} is none of this run, or no more`;
    Object.assign(worker, { host, place, link, heardMs: this.#now });
    return null;
  }

  /** A process waits for the next round. */
  arrive(id: string, step: number, waitMs: number | null): void {
    const worker = this.#workers.get(id);
    if (!worker || worker.phase === 'lost') return;
    const wasRunning = worker.phase === 'running';
    Object.assign(worker, { phase: 'waiting', sinceMs: this.#now, step, waitMs });
    if (this.#isDone) worker.link?.dismissed('the run is over');
    else if (this.rules.kind === 'static' && this.#hasLost) worker.link?.dismissed('the run has lost a process');
    if (wasRunning) {
      this.#complaint = `rank ${worker.rank} (${worker.host}) left the round, as a collective failed there`;
      this.#endRound([], this.#complaint);
    }
    this.#begin();
  }

  /** A process ends in good order. */
  leave(id: string): void {
    const worker = this.#workers.get(id);
    if (!worker || worker.phase === 'lost') return;
    worker.phase = 'left';
    worker.link = null;
    if (this.rules.kind === 'static' && !this.#isRunning) this.lose(id, 'it has left');
    this.#begin();
  }

  /** Ranks of the round that have left. */
  left(): number[] {
    return [...this.#workers.values()].flatMap(({ phase, rank }) => (phase === 'left' && rank !== null ? [rank] : []));
  }

  /** Something was heard of a process or launcher. */
  beat(of: string): void {
    const isLauncher = ({ node }: Launcher): boolean => launcherName(node) === of;
    const sender = this.#workers.get(of) ?? [...this.#launchers.values()].find(isLauncher);
    if (sender) sender.heardMs = this.#now;
  }

  /** One of its connections is closed: when it has not left, it has most likely ended. */
  hangUp(id: string, reason: string): void {
    if (this.#workers.get(id)?.phase !== 'left') this.lose(id, reason, { kill: false });
  }

  /** A process is gone as far as the others are concerned. What it ended with, its launcher tells. */
  lose(id: string, reason: string, { kill = true } = {}): void {
    const worker = this.#workers.get(id);
    if (!worker || worker.phase === 'lost' || this.#isDone) return;
    const wasPart = worker.rank !== null && worker.phase !== 'waiting';
    const label = labelOf(worker);
    this.log(`${label} (${worker.host}) is lost: ${reason}`);
    worker.phase = 'lost';
    worker.link?.dismissed(`the others have given this process up: ${reason}`);
    worker.link = null;
    this.#hasLost = true;
    const lost = { rank: worker.rank ?? worker.place?.rank ?? -1, host: worker.host, reason };
    const message = `${label} (${worker.host}) was lost: ${reason}`;
    this.#complaint = null;
    if (wasPart) this.#endRound([lost], message);
    if (this.rules.kind === 'static') {
      for (const other of this.#alive()) if (other.phase === 'waiting') other.link?.dismissed(message);
      return;
    }
    const launcher = this.#launchers.get(worker.node);
    if (!launcher) this.#workers.delete(id);
    else if (kill) launcher.link.kill(id);
    else worker.killMs = this.#now + closeGraceMs;
  }

  /** A launcher tells that a process is no more. @param status - of its end; null: by a signal */
  ended(id: string, status: number | null, signal: string | null): void {
    const worker = this.#workers.get(id);
    if (!worker || worker.hasEnded) return;
    worker.hasEnded = true;
    if (this.#isDone) return;
    const how = signal === null ? `ended with status ${status}` : `was ended by ${signal}`;
    const label = labelOf(worker);
    if (status === 0 || status === 130) {
      worker.phase = 'left';
      this.#isInterrupted ||= status === 130;
    } else if (status === 2 || status === 3) {
      // Usage, configuration, data: it would end so every time.
      this.#end(status, `${label} (${worker.host}) failed: it ${how}`);
    } else {
      this.lose(id, `it ${how}`);
      this.#workers.delete(id);
      const launcher = this.#launchers.get(worker.node);
      if (launcher && !this.#isInterrupted && this.#takeRestart(`${label} ${how}; starting it again`)) {
        const next = this.#add(worker.node, worker.index, worker.host);
        launcher.link.start(next.id);
      } else {
        this.#goOnWithout(`${label} (${worker.host}) failed: it ${how}`, status ?? 1);
      }
    }
    this.#begin();
  }

  /** Time goes on. */
  tick(nowMs: number): void {
    this.#now = nowMs;
    if (this.#isDone) return;
    const { heartbeatMs, startMs, nextRoundMs, hostMs } = this.timing;
    const seconds = (ms: number): string => `${ms / 1000} s`;
    for (const { node, heardMs } of [...this.#launchers.values()]) {
      if (nowMs - heardMs > heartbeatMs) this.loseLauncher(node, `nothing heard of it for ${seconds(heartbeatMs)}`);
    }
    for (const worker of [...this.#workers.values()]) {
      const { id, phase, heardMs, sinceMs, waitMs, killMs } = worker;
      const waited = nowMs - sinceMs;
      if (killMs !== null && nowMs >= killMs) {
        worker.killMs = null;
        this.#launchers.get(worker.node)?.link.kill(id);
      }
      if (phase === 'lost' || phase === 'left') continue;
      if (heardMs !== null && nowMs - heardMs > heartbeatMs) {
        this.lose(id, `nothing heard of it for ${seconds(heartbeatMs)}`);
      } else if (phase === 'starting' && waited > startMs && this.rules.kind === 'elastic') {
        this.lose(id, `it did not join within ${seconds(startMs)}`);
      } else if (phase === 'summoned' && waited > nextRoundMs && this.rules.kind === 'elastic') {
        this.lose(id, `it did not come to the next round within ${seconds(nextRoundMs)}`);
      } else if (phase === 'waiting' && waitMs !== null && waited > waitMs) {
        worker.link?.dismissed(`not all processes came within ${seconds(waitMs)}; missing: ${this.#missing()}`);
      }
    }
    const { rules } = this;
    if (rules.kind === 'elastic' && !this.#isRunning && nowMs - this.#gatheringMs > hostMs && !this.#isEnough()) {
      const got = `${this.#alive().length} on ${this.#launchers.size}`;
      this.#end(
        1,
        `expected ${this.#least()} processes on ${rules.minNodes} hosts within ${seconds(hostMs)}, got ${got}`,
      );
    }
    this.#begin();
  }

  /** Ends the run from outside. */
  stop(status: number, message: string): void {
    if (!this.#isDone) this.#end(status, message);
  }

  /** A process that is expected. Without a launcher (tests), nobody starts it again. */
  #add(node: number, index: number, host: string, id = `${node}.${index}.${this.#generation++}`): Worker {
    const worker: Worker = {
      ...{ id, node, index, host, place: null, phase: 'starting', sinceMs: this.#now, heardMs: null, rank: null },
      ...{ step: -1, waitMs: null, link: null, killMs: null, hasEnded: false },
    };
    this.#workers.set(id, worker);
    return worker;
  }

  #alive(): Worker[] {
    return [...this.#workers.values()].filter(({ phase }) => phase !== 'lost' && phase !== 'left');
  }

  #takeRestart(what: string): boolean {
    if (this.rules.kind === 'static' || this.#restarts >= this.rules.maxRestarts) return false;
    this.#restarts++;
    this.log(`${what} (${this.#restarts} of ${this.rules.maxRestarts} restarts)`);
    return true;
  }

  /** The fewest processes that a round may have. */
  #least(): number {
    const { rules } = this;
    if (rules.kind === 'static') return rules.size;
    const perNode = Math.min(...[...this.#launchers.values()].map(({ processes }) => processes));
    return rules.minProcesses ?? rules.minNodes * (Number.isFinite(perNode) ? perNode : 1);
  }

  #isEnough(): boolean {
    const { rules } = this;
    // Who has ended well is not missing: one that is lost at the end of a run ends it alone, from the last checkpoint.
    const done = [...this.#workers.values()].filter(({ phase, hasEnded }) => phase === 'left' && hasEnded).length;
    return (
      this.#alive().length + done >= this.#least() &&
      (rules.kind === 'static' || this.#launchers.size >= rules.minNodes)
    );
  }

  #goOnWithout(message: string, status: number): void {
    const { rules } = this;
    if (rules.kind === 'static') return;
    const alive = this.#alive().length;
    if (this.#isInterrupted) this.#end(status, `${message}; the run was interrupted`);
    else if (!this.#isEnough()) this.#end(status, `${message}; ${this.#usedUp()}`);
    else this.log(`going on with ${alive} processes: ${this.#usedUp()}`);
  }

  #usedUp(): string {
    const most = this.rules.kind === 'static' ? 0 : this.rules.maxRestarts;
    return most === 0
      ? 'nothing is started again (--max-restarts 0)'
      : `its ${most} restarts (--max-restarts) are used up`;
  }

  #endRound(lost: LostRank[], message: string): void {
    if (!this.#isRunning) return;
    this.#isRunning = false;
    this.#gatheringMs = this.#now;
    for (const worker of this.#workers.values()) {
      if (worker.phase !== 'running') continue;
      worker.phase = 'summoned';
      worker.sinceMs = this.#now;
      worker.link?.over(this.#round, message, lost);
    }
  }

  /** Begins a round, or ends the run, when it is time to. */
  #begin(): void {
    if (this.#isDone) return;
    const alive = this.#alive();
    const { rules } = this;
    if (rules.kind === 'elastic' && alive.length === 0) {
      const all = [...this.#workers.values()];
      if (all.length > 0 && all.every(({ phase, hasEnded }) => phase === 'left' && hasEnded)) {
        this.#end(this.#isInterrupted ? 130 : 0, this.#isInterrupted ? 'the run was interrupted' : 'done');
      }
      return;
    }
    if (this.#isRunning) {
      const isComplete = alive.every(({ phase }) => phase === 'running' || phase === 'waiting');
      if (isComplete && alive.some(({ phase }) => phase === 'waiting')) this.#endRound([], 'more processes have come');
      return;
    }
    if (this.#isInterrupted) {
      this.#end(130, 'the run was interrupted');
      return;
    }
    // One that is lost but runs still may end with a status that ends the run.
    const isSettled = [...this.#workers.values()].every(({ phase }) => phase === 'waiting' || phase === 'left');
    if (!isSettled || !this.#isEnough()) return;
    if (rules.kind === 'elastic') {
      const isLastCall = this.#round < 0 && this.#launchers.size < rules.maxNodes;
      const since = Math.max(...alive.map(({ sinceMs }) => sinceMs));
      if (isLastCall && this.#now - since < this.timing.lastCallMs) return;
    }
    this.#deal(alive);
  }

  #deal(alive: Worker[]): void {
    if (this.#complaint && !this.#takeRestart('beginning again')) {
      this.#end(1, `${this.#complaint}; ${this.#usedUp()}`);
      return;
    }
    this.#complaint = null;
    this.#round++;
    this.#isRunning = true;
    this.onRound();
    const ordered = this.rules.kind === 'static' ? alive.sort((a, b) => a.index - b.index) : inOrder(alive);
    const hosts = ordered.map(({ host }) => host);
    // Processes of one launcher share a host, whatever it is called.
    const keyOf = (worker: Worker): string => (worker.place ? worker.host : String(worker.node));
    const keys = ordered.map(keyOf);
    const ranks = Object.fromEntries(ordered.map(({ id }, rank) => [id, rank]));
    for (const { link } of this.#launchers.values()) link.dealt(this.#round, ranks);
    ordered.forEach((worker, rank) => {
      const key = keys[rank];
      const localRank = worker.place?.localRank ?? keys.slice(0, rank).filter((other) => other === key).length;
      const localSize = worker.place?.localSize ?? keys.filter((other) => other === key).length;
      Object.assign(worker, { phase: 'running', sinceMs: this.#now, rank });
      worker.link?.dealt({ round: this.#round, rank, size: ordered.length, localRank, localSize, hosts });
    });
    const count = new Set(keys).size;
    this.log(
      `round ${this.#round}: ${ordered.length} process${ordered.length > 1 ? 'es' : ''} on ${count} host${count > 1 ? 's' : ''}`,
    );
  }

  #missing(): string {
    const { rules } = this;
    if (rules.kind === 'static') {
      const there = new Set(this.#alive().map(({ index }) => index));
      return `rank ${Array.from({ length: rules.size }, (_, rank) => rank)
        .filter((rank) => !there.has(rank))
        .join(', ')}`;
    }
    const waited = this.#alive().filter(({ phase }) => phase !== 'waiting');
    return waited.map(({ id, host }) => `process ${id} (${host})`).join(', ') || 'hosts';
  }

  #end(status: number, message: string): void {
    this.#isDone = true;
    this.#isRunning = false;
    for (const { link } of this.#workers.values()) link?.dismissed(message);
    for (const { link } of this.#launchers.values()) link.end(status, message);
    this.onEnd(status, message);
  }
}

const labelOf = ({ id, rank }: Worker): string => (rank === null ? `process ${id}` : `rank ${rank}`);

/** Rank 0 holds the newest state; the ranks of a host follow each other, its host's first. */
function inOrder(workers: Worker[]): Worker[] {
  const byPlace = (a: Worker, b: Worker): number => a.node - b.node || a.index - b.index;
  const [first] = [...workers].sort((a, b) => b.step - a.step || byPlace(a, b));
  const isFirst = (worker: Worker): number => (worker === first ? 0 : worker.node === first?.node ? 1 : 2);
  return [...workers].sort((a, b) => isFirst(a) - isFirst(b) || byPlace(a, b));
}
