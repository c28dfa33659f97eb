// Hosts on one machine: network namespaces joined by a router, each on a cable of its own. Root on Linux alone may make them.
//
//   host 0 ── tbf ── router ── tbf ── host 1
//
// Nothing of it is seen outside: every device and address is within a namespace made here. Where the cables shall delay or
// lose, the router does not forward: it takes every connection that passes for itself, and a relay there goes on with it.
import { type ChildProcess, execFileSync, fork, type SpawnOptions, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { RelayBehaviour, RelayOptions } from './relay.js';

export interface NetworkOptions {
  hosts: number;
  /** Megabits a second of each host's cable, each way; null: as fast as it goes. */
  mbit?: number | null;
  /** What a relay in the router does; null: there is none. */
  relay?: Partial<RelayBehaviour> | null;
}

/** Ports that hosts' sockets are given where they ask for any, and that a relay takes connections to. */
export const hostPorts = { first: 33_000, count: 400 };

let made = 0;
const alive = new Set<Network>();

/** A machine that is not there: its processes have a network of their own. */
export class Host {
  constructor(
    /** Of the network namespace. */
    readonly name: string,
    readonly address: string,
  ) {}

  /** What runs a command on it. The process is the command's own: signals reach it. */
  command(file: string, args: readonly string[]): [string, string[]] {
    return ['ip', ['netns', 'exec', this.name, file, ...args]];
  }

  spawn(file: string, args: readonly string[], options: SpawnOptions = {}): ChildProcess {
    return spawn(...this.command(file, args), options);
  }
}

/** Disposing ends every process on its hosts. */
export class Network implements AsyncDisposable {
  readonly hosts: readonly Host[];
  readonly #router: string;
  readonly #cut = new Set<number>();
  #relay: ChildProcess | undefined;

  constructor({ hosts, mbit = null, relay = null }: Required<NetworkOptions>) {
    const prefix = `hadal-${process.pid}-${made++}`;
    this.#router = `${prefix}-router`;
    this.hosts = Array.from({ length: hosts }, (_, i) => new Host(`${prefix}-${i}`, `10.77.${i}.2`));
    alive.add(this);
    try {
      ip('netns', 'add', this.#router);
      ip('-n', this.#router, 'link', 'set', 'lo', 'up');
      for (const [i, host] of this.hosts.entries()) this.#wire(i, host, mbit);
      if (relay) this.#takeConnections();
      else setting(this.#router, 'ip_forward', 1);
    } catch (error) {
      this.remove();
      throw error;
    }
  }

  #wire(i: number, { name, address }: Host, mbit: number | null): void {
    const gateway = `10.77.${i}.1`;
    ip('netns', 'add', name);
    ip('-n', this.#router, 'link', 'add', `host${i}`, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', name);
    ip('-n', this.#router, 'addr', 'add', `${gateway}/24`, 'dev', `host${i}`);
    ip('-n', this.#router, 'link', 'set', `host${i}`, 'up');
    ip('-n', name, 'addr', 'add', `${address}/24`, 'dev', 'eth0');
    for (const device of ['lo', 'eth0']) ip('-n', name, 'link', 'set', device, 'up');
    ip('-n', name, 'route', 'add', 'default', 'via', gateway);
    setting(name, 'ip_local_port_range', `${hostPorts.first} ${hostPorts.first + hostPorts.count - 1}`);
    if (mbit === null) return;
    // A burst of what one call sends at most: less would cut every packet of the kernel's own in pieces.
    const rate = ['rate', `${mbit}mbit`, 'burst', '128kb', 'latency', '50ms'];
    const ends: [string, string][] = [
      [this.#router, `host${i}`],
      [name, 'eth0'],
    ];
    for (const [space, device] of ends) {
      run('tc', ['-n', space, 'qdisc', 'add', 'dev', device, 'root', 'tbf', ...rate]);
    }
  }

  /** What comes in for a host is the router's own; what goes out is the host's. */
  #takeConnections(): void {
    const rules = [
      ['add', 'pref', '10', 'iif', 'lo', 'lookup', '200'],
      ['add', 'pref', '100', 'lookup', 'local'],
      ['del', 'pref', '0'],
    ];
    for (const rule of rules) ip('-n', this.#router, 'rule', ...rule);
    for (const name of ['all', ...this.hosts.map((_, i) => `host${i}`)]) {
      setting(this.#router, `conf/${name}/rp_filter`, 0);
      setting(this.#router, `conf/${name}/accept_local`, 1);
    }
    for (const [i, { address }] of this.hosts.entries()) {
      ip('-n', this.#router, 'route', 'add', `10.77.${i}.0/24`, 'dev', `host${i}`, 'table', '200');
      ip('-n', this.#router, 'route', 'add', 'local', address, 'dev', 'lo', 'table', 'local');
    }
  }

  async startRelay(behaviour: Partial<RelayBehaviour>): Promise<void> {
    const ports = Array.from({ length: hostPorts.count }, (_, i) => hostPorts.first + i);
    const options: RelayOptions = { ...behaviour, host: '0.0.0.0', ports };
    const typescript = new URL('../../bench/support/typescript.mjs', import.meta.url).href;
    const program = fileURLToPath(new URL('relay-process.ts', import.meta.url));
    this.#relay = fork(program, [JSON.stringify(options)], {
      execPath: 'ip',
      execArgv: ['netns', 'exec', this.#router, process.execPath, '--import', typescript],
    });
    await this.#told();
  }

  async #told(): Promise<void> {
    const relay = this.#relay as ChildProcess;
    const ended = once(relay, 'exit').then(([status]) => {
      throw new Error(`the relay ended with status ${status}`);
    });
    await Promise.race([once(relay, 'message'), ended]);
  }

  /** Changes what the relay does, or lets it end all connections. */
  async set(change: Partial<RelayBehaviour> | 'reset'): Promise<void> {
    if (!this.#relay) throw new Error('expected a network with a relay, got one without');
    this.#relay.send(change);
    await this.#told();
  }

  /** Cuts a host's cable: packets vanish both ways, and nobody is told. */
  cut(host: number): void {
    if (this.#cut.has(host)) return;
    this.#cut.add(host);
    this.#blackhole('add', host);
  }

  mend(host: number): void {
    if (this.#cut.delete(host)) this.#blackhole('del', host);
  }

  #blackhole(action: 'add' | 'del', host: number): void {
    const { address } = this.hosts[host] as Host;
    for (const end of ['from', 'to']) ip('-n', this.#router, 'rule', action, 'pref', '1', end, address, 'blackhole');
  }

  /** Ends what runs on the hosts and removes them, at once. */
  remove(): void {
    if (!alive.delete(this)) return;
    this.#relay?.removeAllListeners();
    for (const name of [...this.hosts.map((host) => host.name), this.#router]) removeNamespace(name);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.remove();
  }
}

/** Makes hosts. @throws Error where the rights do not allow it: ask {@link canMakeNetworks} first */
export async function makeNetwork(options: NetworkOptions): Promise<Network> {
  sweep();
  const { hosts, mbit = null, relay = null } = options;
  const network = new Network({ hosts, mbit, relay });
  try {
    if (relay) await network.startRelay(relay);
  } catch (error) {
    network.remove();
    throw error;
  }
  return network;
}

let can: boolean | undefined;

/** Whether this process may make hosts, found out by making one. */
export function canMakeNetworks(): boolean {
  can ??= process.platform === 'linux' && process.getuid?.() === 0 && tryOne();
  return can;
}

function tryOne(): boolean {
  try {
    new Network({ hosts: 1, mbit: 1000, relay: {} }).remove();
    return true;
  } catch {
    return false;
  }
}

function removeAll(): void {
  for (const network of alive) network.remove();
}

process.on('exit', removeAll);
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => {
    if (alive.size === 0 && process.listenerCount(signal) > 0) return; // another's to handle
    removeAll();
    process.kill(process.pid, signal);
  });
}

/** Removes what processes left that were killed. */
function sweep(): void {
  const names = ip('netns', 'list')
    .split('\n')
    .map((line) => line.split(' ')[0] as string);
  for (const name of names) {
    const owner = /^hadal-(\d+)-\d+-/.exec(name)?.[1];
    if (owner !== undefined && !existsSync(`/proc/${owner}`)) removeNamespace(name);
  }
}

function removeNamespace(name: string): void {
  try {
    for (const pid of ip('netns', 'pids', name).split('\n').filter(Boolean)) process.kill(Number(pid), 'SIGKILL');
  } catch {
    // There is none of this name, or the process has ended by itself.
  }
  try {
    ip('netns', 'del', name);
  } catch {
    // It was not made.
  }
}

/** Of IPv4 in a namespace. */
function setting(namespace: string, name: string, value: number | string): void {
  run('ip', ['netns', 'exec', namespace, 'sh', '-c', `echo ${value} > /proc/sys/net/ipv4/${name}`]);
}

function ip(...args: string[]): string {
  return run('ip', args);
}

function run(file: string, args: readonly string[]): string {
  return execFileSync(file, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}
