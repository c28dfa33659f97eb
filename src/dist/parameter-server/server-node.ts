// A server as a process: the protocol's coordinator and shard between sockets and what computes with the numbers.
import { z } from 'zod';
import { HadalError } from '../../core/errors.js';
import { type Listener, listen, type Peer } from '../transport.js';
import { readMessage, type ToCoordinator, type ToServer, toCoordinator, toServer } from './messages.js';
import { type Answers, Coordinator, type CoordinatorOptions, type Sent, Shard } from './protocol.js';

/** What a server computes with: its tensors. One call at a time, in order. */
export interface ServerNumbers {
  /** How many tensors it serves. */
  readonly tensors: number;
  /** Bytes of a push. */
  readonly pushBytes: number;
  /** Gradient ← Σ weight · part. @returns its squared norm; null when it is not finite */
  sum(parts: readonly { gradient: Uint8Array; weight: number }[]): Promise<number | null>;
  /** Updates the parameters with it. @returns which tensors have changed */
  apply(update: number, squaredNorm: number | null): Promise<Iterable<number>>;
  /** The contents of some tensors, one after the other. */
  read(tensors: readonly number[]): Promise<Uint8Array>;
}

export interface ServerNodeOptions {
  host: string;
  port: number;
  token: string;
  payloadBytes: number;
  coordinator: CoordinatorOptions;
  numbers: ServerNumbers;
  /** What workers are told when they come: JSON. */
  welcome: unknown;
  /** Told who came, went, was sent away. */
  onNotice(message: string): void;
  /** Told after each update, when the coordinator knows of it. */
  onUpdated(): void;
}

/** A worker's first message on each connection. */
const hello = z.strictObject({ type: z.literal('hello'), worker: z.string().min(1).max(64) });

const anyMessage = z.union([toCoordinator, toServer]);

/** What workers may say; the rest is for servers among themselves. */
const fromWorkers = ['ask', 'beat', 'leave', 'push', 'pull'];

const tickMs = 250;

/** The one server of a run. */
export class ServerNode implements AsyncDisposable {
  readonly coordinator: Coordinator;
  /** Rejects when the numbers cannot go on. */
  readonly failed: Promise<never>;
  readonly #shard: Shard<Uint8Array>;
  readonly #peers = new Map<string, Peer>();
  readonly #timer: NodeJS.Timeout;
  #listener: Listener | null = null;
  #fail: (error: unknown) => void = () => {};
  #tasks: Promise<void> = Promise.resolve();

  private constructor(private readonly options: ServerNodeOptions) {
    this.coordinator = new Coordinator(options.coordinator);
    this.#shard = new Shard(0, { start: options.coordinator.start, tensors: options.numbers.tensors });
    this.failed = new Promise((_, reject) => {
      this.#fail = reject;
    });
    this.failed.catch(() => {}); // thrown where it is awaited
    this.#timer = setInterval(() => this.#tick(), tickMs);
  }

  /** @throws HadalError HADAL_ERR_COMM when the address cannot be had */
  static async open(options: ServerNodeOptions): Promise<ServerNode> {
    const node = new ServerNode(options);
    const { host, port, token, payloadBytes, onNotice } = options;
    try {
      node.#listener = await listen({
        ...{ host, port, token, payloadBytes },
        onPeer: (peer) => node.#welcome(peer),
        onRefused: (address, reason) => onNotice(`${address} was sent away: ${reason}`),
      });
    } catch (error) {
      clearInterval(node.#timer);
      throw error;
    }
    return node;
  }

  get port(): number {
    return (this.#listener as Listener).port;
  }

  /** Ends the run as soon as nothing need be in flight. */
  endSoon(): void {
    this.#send(this.coordinator.endSoon());
  }

  #welcome(peer: Peer): void {
    let worker: string | null = null;
    peer.receive({
      onMessage: (message, payload) => {
        if (worker === null) {
          worker = readMessage(hello, message).worker;
          this.#peers.get(worker)?.close('it came once more');
          this.#peers.set(worker, peer);
          peer.send({ type: 'welcome', run: this.options.welcome });
        } else {
          this.#receive(worker, message, payload);
        }
      },
      onClose: () => {
        if (worker !== null && this.#peers.get(worker) === peer) this.#peers.delete(worker);
      },
    });
  }

  #receive(worker: string, given: unknown, payload: Uint8Array): void {
    const { pushBytes } = this.options.numbers;
    const message = readMessage(anyMessage, given);
    if (!fromWorkers.includes(message.type) || !('worker' in message) || message.worker !== worker) {
      throw new HadalError('HADAL_ERR_COMM', `[comm] expected a message of worker ${worker}, got '${message.type}'`);
    }
    if (message.type === 'push' && payload.byteLength !== pushBytes) {
      const got = payload.byteLength;
      throw new HadalError('HADAL_ERR_COMM', `[comm] expected a push of ${pushBytes} bytes, got ${got}`);
    }
    if (message.type === 'push' || message.type === 'pull') this.#atShard(message, payload);
    else this.#atCoordinator(message as ToCoordinator);
  }

  #atCoordinator(message: ToCoordinator): void {
    const { joined, left } = this.coordinator.counts;
    const sent = this.coordinator.receive(message, performance.now());
    const { counts, workers } = this.coordinator;
    const who = 'worker' in message ? message.worker : '';
    if (counts.joined > joined) this.options.onNotice(`worker ${who} joined, ${workers.length} in all`);
    if (counts.left > left) this.options.onNotice(`worker ${who} left, ${workers.length} in all`);
    this.#send(sent);
  }

  #tick(): void {
    const before = new Set(this.coordinator.workers);
    const sent = this.coordinator.tick(performance.now());
    const { workers } = this.coordinator;
    const lost = [...before].filter((worker) => !workers.includes(worker));
    for (const worker of lost) {
      this.options.onNotice(
        `worker ${worker} gave no sign of life: its micro-batch is dealt anew, ${workers.length} left`,
      );
    }
    this.#send(sent);
  }

  #send(sent: readonly Sent[]): void {
    for (const { to, message } of sent) {
      if (typeof to === 'string') this.#peers.get(to)?.send(message);
      else this.#atShard(message as ToServer);
    }
  }

  #atShard(message: ToServer, payload?: Uint8Array): void {
    this.#answer(this.#shard.receive(message, payload));
  }

  #answer({ toCoordinator, tasks }: Answers<Uint8Array>): void {
    const { numbers } = this.options;
    for (const task of tasks) {
      this.#then(async () => {
        if (task.do === 'sum') this.#answer(this.#shard.summed(await numbers.sum(task.parts)));
        else if (task.do === 'apply') {
          this.#answer(this.#shard.applied(await numbers.apply(task.update, task.squaredNorm)));
          this.options.onUpdated();
        } else this.#peers.get(task.worker)?.send(task.message, await numbers.read(task.message.tensors));
      });
    }
    for (const message of toCoordinator) this.#atCoordinator(message);
  }

  #then(task: () => Promise<void>): void {
    this.#tasks = this.#tasks.then(task).catch((error: unknown) => this.#fail(error));
  }

  /** Lets workers that were told the end go by themselves, for a moment. */
  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer);
    const until = performance.now() + 2000;
    while (this.coordinator.hasEnded && this.#peers.size > 0 && performance.now() < until) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    await this.#listener?.[Symbol.asyncDispose]();
  }
}
