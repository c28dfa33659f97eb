// The launcher of one host: starts its processes, passes on what they write and what they are told, and on the first host holds
// the rendezvous of them all.
import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import { HadalError } from '../core/errors.js';
import { tokenFrom } from './environment.js';
import { startHeartbeat } from './heartbeat.js';
import { addressOf, commAddress } from './interface.js';
import { LauncherLog, type LauncherLogOptions } from './launcher-log.js';
import { LaunchedProcess } from './launcher-process.js';
import type { LaunchSettings } from './launcher-settings.js';
import { Rendezvous } from './rendezvous.js';
import { type Enlisted, launcherName } from './rendezvous-messages.js';
import { defaultTiming, type Timing } from './rendezvous-rounds.js';
import { StoreClient, type StoreEvent } from './store-client.js';

export interface LauncherOptions extends LaunchSettings, LauncherLogOptions {
  program: string;
  args: readonly string[];
  /** What the processes find in their environment beside what the launcher says. */
  env: NodeJS.ProcessEnv;
  /** Processors for each process. */
  processors: number;
  timing?: Partial<Timing>;
  /** How long a host without a connection to the first one tries to come back. */
  rejoinMs?: number;
}

/** How a run ended. */
export interface LaunchOutcome {
  /** Exit status. */
  status: number;
  message: string;
}

/** Two signals within that time are one: a terminal sends it to all, and `npm run` hands it on. */
const doubleMs = 500;
/** From asking processes to end to ending them. */
const endMs = 5000;

export class Launcher {
  readonly #options: LauncherOptions;
  readonly #log: LauncherLog;
  readonly #timing: Timing;
  readonly #processes = new Map<string, LaunchedProcess>();
  readonly #ranks = new Map<string, number>();
  #token = '';
  /** Where the rendezvous is. */
  #where = { host: '', port: 0 };
  #rendezvous: Rendezvous | null = null;
  #client: StoreClient | null = null;
  #interrupted: { signal: NodeJS.Signals; ms: number } | null = null;
  #onStop: (outcome: LaunchOutcome) => void = () => {};
  /** Aborted when the run is over here: nothing is started or tried any more. */
  readonly #over = new AbortController();

  /** @throws HadalError HADAL_ERR_IO */
  constructor(options: LauncherOptions) {
    this.#options = options;
    this.#log = new LauncherLog(options);
    this.#timing = { ...defaultTiming, ...options.timing };
  }

  /** Runs until all processes have ended. @throws HadalError HADAL_ERR_COMM, HADAL_ERR_CONFIG where it cannot begin */
  async run(): Promise<LaunchOutcome> {
    const { rendezvous, nodeRank, env } = this.#options;
    this.#token = rendezvous || env.HADAL_TOKEN ? tokenFrom(env) : randomBytes(32).toString('hex');
    const stopped = new Promise<LaunchOutcome>((resolve) => {
      this.#onStop = resolve;
    });
    try {
      const { host, port } =
        nodeRank === 0 ? await this.#openRendezvous() : (rendezvous as { host: string; port: number });
      return await Promise.race([stopped, this.#takePart(host, port)]);
    } finally {
      this.#over.abort();
      await this.#endProcesses('SIGKILL');
      this.#client?.[Symbol.dispose]();
      await this.#rendezvous?.[Symbol.asyncDispose]();
    }
  }

  /** Passes a signal on: the processes save and end. The second one ends them at once. */
  interrupt(signal: NodeJS.Signals): void {
    const ms = performance.now();
    if (this.#interrupted && ms - this.#interrupted.ms < doubleMs) return;
    if (this.#interrupted || this.#processes.size === 0) {
      const outcome = { status: 130, message: 'the run was interrupted' };
      this.#rendezvous?.rounds.stop(outcome.status, outcome.message);
      this.#onStop(outcome);
      return;
    }
    this.#interrupted = { signal, ms };
    this.#log.say('stopping: each process finishes its step, and the run is saved; again to end at once');
    for (const child of this.#processes.values()) child.kill(signal);
  }

  async #openRendezvous(): Promise<{ host: string; port: number }> {
    const { rendezvous, nodes, minProcesses, maxRestarts } = this.#options;
    const host = rendezvous?.host ?? '127.0.0.1';
    const address = rendezvous ? (commAddress(process.env.HADAL_COMM_INTERFACE) ?? (await addressOf(host))) : host;
    try {
      this.#rendezvous = await Rendezvous.open({
        ...{ host: address, port: rendezvous?.port ?? 0, token: this.#token, timing: this.#timing },
        rules: { kind: 'elastic', minNodes: nodes.min, maxNodes: nodes.max, minProcesses, maxRestarts },
        log: (line) => this.#log.say(line),
      });
    } catch (error) {
      const advice =
        'host 0 must have the address that --rendezvous names, or HADAL_COMM_INTERFACE the one to listen on';
      throw new HadalError('HADAL_ERR_CONFIG', `${(error as Error).message}; ${advice}`, { cause: error });
    }
    return { host, port: this.#rendezvous.port };
  }

  /** Takes part until the run ends; a host that loses the first one comes back with processes that begin anew. */
  async #takePart(host: string, port: number): Promise<LaunchOutcome> {
    const { nodeRank, rejoinMs = 60_000 } = this.#options;
    let lostMs: number | null = null;
    for (;;) {
      try {
        const waitMs = lostMs === null ? this.#timing.hostMs : lostMs + rejoinMs - performance.now();
        const end = await this.#session(host, port, waitMs, () => {
          lostMs = null;
        });
        if ('status' in end) return end;
        this.#over.signal.throwIfAborted();
        this.#log.say(`host 0 is lost: ${end.lost}; ending the processes here and trying to come back`);
      } catch (error) {
        // Refused for now, or not there: the others may find out only later that this host was gone.
        if (lostMs === null || performance.now() > lostMs + rejoinMs || this.#over.signal.aborted) throw error;
        await new Promise((resolve) => setTimeout(resolve, 500));
      }
      await this.#endProcesses('SIGKILL');
      lostMs ??= performance.now();
      if (nodeRank === 0) return { status: 1, message: 'the rendezvous of this host does not answer' };
    }
  }

  /** One connection to host 0, to its end. */
  async #session(
    host: string,
    port: number,
    waitMs: number,
    onBack: () => void,
  ): Promise<LaunchOutcome | { lost: string }> {
    const { nodeRank: node, processes } = this.#options;
    const token = this.#token;
    let finish = (_: LaunchOutcome | { lost: string }): void => {};
    const over = new Promise<LaunchOutcome | { lost: string }>((resolve) => {
      finish = resolve;
    });
    const lost = (reason: string): void => finish({ lost: reason });
    const onEvent = (event: StoreEvent): void => {
      if (event.event === 'end') finish({ status: event.status, message: event.message });
      else this.#obey(event);
    };
    const { signal } = this.#over;
    using client = await StoreClient.connect({ host, port, token, waitMs, signal, onEvent, onClose: lost });
    const enlisted = await client.request<Enlisted>({ do: 'enlist', node, processes, host: hostname() });
    this.#client = client;
    const of = launcherName(node);
    using _ = await startHeartbeat({ host, port, token, of, heartbeatMs: enlisted.heartbeatMs }, lost);
    onBack(); // not before: a network that fails once more meanwhile is no end
    this.#where = { host, port };
    for (const worker of enlisted.workers) this.#start(worker);
    const end = await over;
    this.#client = null;
    if ('status' in end) {
      if (end.status !== 0 && end.status !== 130) this.#log.mute();
      await this.#endProcesses(end.status === 130 ? 'SIGTERM' : 'SIGKILL');
    }
    return end;
  }

  #obey(event: Exclude<StoreEvent, { event: 'end' }>): void {
    if (event.event === 'start') this.#start(event.worker);
    if (event.event === 'kill') this.#processes.get(event.worker)?.kill('SIGKILL');
    if (event.event === 'dealt') {
      for (const [worker, rank] of Object.entries(event.ranks)) this.#ranks.set(worker, rank);
    }
  }

  #start(worker: string): void {
    if (this.#over.signal.aborted) return;
    const { program, args, env, nodeRank, nodes, processes, processors } = this.#options;
    const index = Number(worker.split('.')[1]);
    const isFixed = nodes.min === nodes.max;
    const name = `host ${nodeRank} process ${index}`;
    const child = new LaunchedProcess({
      program,
      args,
      env: {
        ...env,
        HADAL_TOKEN: this.#token,
        HADAL_WORKER: worker,
        HADAL_PROCESSORS: String(processors),
        MASTER_ADDR: this.#where.host,
        MASTER_PORT: String(this.#where.port),
        LOCAL_RANK: String(index),
        LOCAL_WORLD_SIZE: String(processes),
        // Of the first round.
        ...(isFixed && { RANK: String(nodeRank * processes + index), WORLD_SIZE: String(nodes.min * processes) }),
      },
      onLine: (line, stream) => this.#log.line(name, this.#ranks.get(worker) ?? null, line, stream),
      onEnd: (status, signal) => {
        this.#processes.delete(worker);
        // One that was asked to end before it could know how to.
        const isInterrupted = signal !== null && signal === this.#interrupted?.signal;
        const ended = isInterrupted ? { status: 130, signal: null } : { status, signal };
        this.#client?.request({ do: 'ended', worker, ...ended }).catch(() => {});
      },
    });
    this.#processes.set(worker, child);
    if (this.#interrupted) child.kill(this.#interrupted.signal);
  }

  /** Ends all processes, in the end by force. */
  async #endProcesses(signal: NodeJS.Signals): Promise<void> {
    for (const child of this.#processes.values()) child.kill(signal);
    const end = performance.now() + endMs;
    while (this.#processes.size > 0) {
      await new Promise((resolve) => setTimeout(resolve, 10));
      if (performance.now() > end) for (const child of this.#processes.values()) child.kill('SIGKILL');
    }
  }
}
