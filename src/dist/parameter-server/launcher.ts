// The processes of a host in a run with a parameter server: on the first host the server, on each some workers. Workers that are
// lost are started again; the run does not wait for them.
import { randomBytes } from 'node:crypto';
import { createServer } from 'node:net';
import { HadalError } from '../../core/errors.js';
import { tokenFrom } from '../environment.js';
import type { LaunchOutcome } from '../launcher.js';
import { LauncherLog, type LauncherLogOptions } from '../launcher-log.js';
import { LaunchedProcess } from '../launcher-process.js';

export interface ServedLauncherOptions extends LauncherLogOptions {
  program: string;
  args: readonly string[];
  /** What the processes find in their environment beside what the launcher says. */
  env: NodeJS.ProcessEnv;
  /** Workers on this host, and processes that are one of them. */
  workers: number;
  processes: number;
  /** 0: the host of the server. */
  nodeRank: number;
  /** Where the server listens; null: on a port of this host alone. */
  address: { host: string; port: number } | null;
  /** Workers started again over the whole run. */
  maxRestarts: number;
  /** Processors for each process. */
  processors: number;
}

/** Two signals within that time are one: a terminal sends it to all, and `npm run` hands it on. */
const doubleMs = 500;
/** From the end of the server to that of workers which were not told of it. */
const endMs = 5000;
/** Before a lost worker is started again. */
const pauseMs = 500;

/** Processes that come and go together. */
interface Unit {
  processes: Set<LaunchedProcess>;
  failure: { status: number | null; signal: string | null } | null;
}

export class ServedLauncher {
  readonly #options: ServedLauncherOptions;
  readonly #log: LauncherLog;
  readonly #processes = new Map<string, LaunchedProcess>();
  #environment: NodeJS.ProcessEnv = {};
  #restarts = 0;
  /** Workers about to be started again. */
  #starting = 0;
  #interruptedMs: number | null = null;
  #hasEnded = false;
  #finish: (outcome: LaunchOutcome) => void = () => {};

  /** @throws HadalError HADAL_ERR_IO */
  constructor(options: ServedLauncherOptions) {
    this.#options = options;
    this.#log = new LauncherLog(options);
  }

  /** Runs until the server has ended, or on other hosts all workers. @throws HadalError HADAL_ERR_CONFIG, HADAL_ERR_COMM */
  async run(): Promise<LaunchOutcome> {
    const { env, address, nodeRank, workers, processors } = this.#options;
    const token = address || env.HADAL_TOKEN ? tokenFrom(env) : randomBytes(32).toString('hex');
    const { host, port } = address ?? { host: '127.0.0.1', port: await freePort() };
    this.#environment = {
      ...{ ...env, HADAL_TOKEN: token, HADAL_PROCESSORS: String(processors) },
      HADAL_SERVER: `${host.includes(':') ? `[${host}]` : host}:${port}`,
    };
    const finished = new Promise<LaunchOutcome>((resolve) => {
      this.#finish = resolve;
    });
    if (nodeRank === 0) await this.#start('server');
    for (let i = 0; i < workers; i++) await this.#start(`worker ${i}`);
    const outcome = await finished;
    this.#hasEnded = true;
    // Workers know by themselves when a run is over; of a server that has failed they hear nothing.
    const until = performance.now() + (outcome.status === 0 ? endMs : 0);
    while (this.#processes.size > 0 && performance.now() < until) await sleep(20);
    for (const child of this.#processes.values()) child.kill('SIGKILL');
    while (this.#processes.size > 0) await sleep(10);
    return outcome;
  }

  /** Lets the server end the run: what is begun is finished, and saved. The second time, all is ended at once. */
  interrupt(signal: NodeJS.Signals): void {
    const ms = performance.now();
    if (this.#interruptedMs !== null) {
      if (ms - this.#interruptedMs > doubleMs) this.#finish({ status: 130, message: 'the run was interrupted twice' });
      return;
    }
    this.#interruptedMs = ms;
    this.#log.say('stopping: what is begun is finished, and the run is saved; again to end at once');
    const server = this.#processes.get('server');
    for (const child of server ? [server] : this.#processes.values()) child.kill(signal);
  }

  async #start(name: string): Promise<void> {
    const isServer = name === 'server';
    const size = isServer ? 1 : this.#options.processes;
    const unit: Unit = { processes: new Set(), failure: null };
    const port = size > 1 ? await freePort() : 0;
    for (let rank = 0; rank < size; rank++) {
      const place = { RANK: rank, WORLD_SIZE: size, LOCAL_RANK: rank, LOCAL_WORLD_SIZE: size, MASTER_PORT: port };
      const box = Object.fromEntries(Object.entries(place).map(([key, value]) => [key, String(value)]));
      const env = { ...this.#environment, HADAL_ROLE: isServer ? 'server' : 'worker' };
      this.#startProcess(name, size === 1 ? name : `${name}.${rank}`, unit, {
        ...env,
        ...(size > 1 && { ...box, MASTER_ADDR: '127.0.0.1' }),
      });
    }
  }

  /** One that fails takes the others of its unit with it. */
  #startProcess(unitName: string, name: string, unit: Unit, env: NodeJS.ProcessEnv): void {
    const { program, args } = this.#options;
    const child = new LaunchedProcess({
      ...{ program, args, env },
      // A terminal's Ctrl-C is for the server alone: workers are to finish what is begun.
      isDetached: true,
      onLine: (line, stream) => this.#log.line(name, null, line, stream),
      onEnd: (status, signal) => {
        this.#processes.delete(name);
        unit.processes.delete(child);
        if (status !== 0 && !unit.failure) {
          unit.failure = { status, signal };
          for (const other of unit.processes) other.kill('SIGKILL');
        }
        if (unit.processes.size > 0 || this.#hasEnded) return;
        this.#ended(unitName, unit.failure ? unit.failure.status : 0, unit.failure?.signal ?? null);
      },
    });
    unit.processes.add(child);
    this.#processes.set(name, child);
  }

  #ended(name: string, status: number | null, signal: string | null): void {
    const how = signal ? `was ended by ${signal}` : `ended with status ${status}`;
    if (name === 'server') {
      this.#finish({ status: status ?? 1, message: `the server ${how}` });
      return;
    }
    const isLost = status !== 0;
    // A configuration or data that one cannot work with, another one cannot either.
    const isFinal = status === 2 || status === 3 || this.#interruptedMs !== null;
    if (isLost && !isFinal && this.#restarts < this.#options.maxRestarts) {
      this.#restarts++;
      this.#starting++;
      this.#log.say(`${name} ${how}; starting it again (${this.#restarts} of ${this.#options.maxRestarts})`);
      setTimeout(() => {
        this.#starting--;
        if (!this.#hasEnded) void this.#start(name);
      }, pauseMs);
      return;
    }
    if (isLost) this.#log.say(`${name} ${how}; the others go on`);
    const workers = this.#starting + [...this.#processes.keys()].filter((each) => each !== 'server').length;
    if (workers > 0 || (!isLost && this.#processes.has('server'))) return;
    this.#finish({ status: isLost ? (status ?? 1) : 0, message: `the last worker ${how}` });
  }
}

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** A port of this host that nobody listens on. */
async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) => {
      reject(
        new HadalError('HADAL_ERR_COMM', `[launch] expected a free port, got: ${error.message}`, { cause: error }),
      );
    });
    server.listen(0, '127.0.0.1', resolve);
  });
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}
