// A worker as a process: the protocol's worker between a socket and what computes with the numbers.
import { z } from 'zod';
import { HadalError } from '../../core/errors.js';
import { connect, type Peer } from '../transport.js';
import { readMessage, toWorker } from './messages.js';
import { Worker, type WorkerAnswers } from './worker.js';

/** What a worker computes with. One call at a time, in order. */
export interface WorkerNumbers {
  /** Writes tensors that are behind each other in `payload` into the cache. */
  load(tensors: readonly number[], payload: Uint8Array): Promise<void>;
  /** @returns tokens that the gradient of the micro-batch, which is kept, is the mean over */
  compute(microBatch: number): Promise<number>;
  /** The gradient that was computed last, as it is sent. */
  gradient(): Promise<Uint8Array>;
}

export interface WorkerNodeOptions {
  name: string;
  host: string;
  port: number;
  token: string;
  /** Seconds that the server may be out of reach before the worker gives up. */
  timeout: number;
  /** The most that one message's payload takes. */
  payloadBytes: number;
  onNotice(message: string): void;
}

const welcomeSchema = z.strictObject({ type: z.literal('welcome'), run: z.unknown() });
const retryMs = 200;
const beatMs = 500;

/** A worker's connection to the server, made anew when it breaks. */
export class WorkerNode implements Disposable {
  readonly protocol: Worker;
  #peer: Peer | null = null;
  #numbers: WorkerNumbers | null = null;
  #timer: NodeJS.Timeout | null = null;
  #tasks: Promise<void> = Promise.resolve();
  #end: { resolve: () => void; reject: (error: unknown) => void } = { resolve: () => {}, reject: () => {} };
  #isOver = false;

  private constructor(private readonly options: WorkerNodeOptions) {
    this.protocol = new Worker(options.name, 1);
  }

  /**
   * Connects.
   *
   * @returns also what the server says of the run
   * @throws HadalError HADAL_ERR_COMM when nobody is there in time; HADAL_ERR_ABORTED
   */
  static async open(options: WorkerNodeOptions, signal?: AbortSignal): Promise<{ node: WorkerNode; run: unknown }> {
    const node = new WorkerNode(options);
    return { node, run: await node.#connect(signal) };
  }

  /** Works until the server says that the run is over. @throws HadalError HADAL_ERR_COMM; HADAL_ERR_ABORTED; what `numbers` throw */
  async work(numbers: WorkerNumbers, signal?: AbortSignal): Promise<void> {
    this.#numbers = numbers;
    const over = new Promise<void>((resolve, reject) => {
      this.#end = { resolve, reject };
    });
    const leave = (): void => {
      this.#do(this.protocol.leave());
      this.#end.reject(
        new HadalError('HADAL_ERR_ABORTED', '[train] interrupted; the others go on without this worker'),
      );
    };
    signal?.addEventListener('abort', leave, { once: true });
    if (signal?.aborted) leave();
    this.#timer = setInterval(() => this.#do(this.protocol.tick()), beatMs);
    this.#do(this.protocol.tick());
    try {
      await over;
    } finally {
      signal?.removeEventListener('abort', leave);
      this[Symbol.dispose]();
      await this.#tasks; // the device must not be taken away under a computation
    }
  }

  async #connect(signal?: AbortSignal): Promise<unknown> {
    const { host, port, token, timeout, payloadBytes, name } = this.options;
    const until = performance.now() + 1000 * timeout;
    for (;;) {
      try {
        const peer = await connect({ host, port, token, payloadBytes, ...(signal && { signal }) });
        return await this.#meet(peer, name);
      } catch (error) {
        const isFinal = !(error instanceof HadalError) || error.code !== 'HADAL_ERR_COMM';
        if (isFinal || performance.now() > until || this.#isOver) throw error;
        await new Promise((resolve) => setTimeout(resolve, retryMs));
      }
    }
  }

  /** Says who this is; what comes after the welcome is for the protocol. */
  #meet(peer: Peer, worker: string): Promise<unknown> {
    return new Promise((resolve, reject) => {
      let isWelcome = false;
      peer.receive({
        onMessage: (message, payload) => {
          if (isWelcome) return this.#receive(message, payload);
          isWelcome = true;
          const { run } = readMessage(welcomeSchema, message);
          this.#peer = peer;
          resolve(run);
        },
        onClose: (reason) => {
          if (isWelcome) void this.#reconnect(reason);
          else reject(new HadalError('HADAL_ERR_COMM', `[comm] expected a welcome, got none: ${reason}`));
        },
      });
      peer.send({ type: 'hello', worker });
    });
  }

  async #reconnect(reason: string): Promise<void> {
    this.#peer = null;
    if (this.#isOver || this.protocol.hasEnded) return;
    this.options.onNotice(`the connection to the server broke (${reason}); trying again`);
    try {
      await this.#connect();
      this.#do(this.protocol.again());
    } catch (error) {
      this.#end.reject(error);
    }
  }

  #receive(given: unknown, payload: Uint8Array): void {
    const message = readMessage(toWorker, given);
    const tensors = message.type === 'parameters' ? message.tensors : [];
    this.#do(this.protocol.receive(message), () => this.#numbers?.load(tensors, payload));
    if (this.protocol.hasEnded) this.#end.resolve();
  }

  #do({ toCoordinator, toServers, tasks }: WorkerAnswers, load?: () => Promise<void> | undefined): void {
    for (const message of toCoordinator) this.#peer?.send(message);
    for (const { message } of toServers) this.#peer?.send(message);
    for (const task of tasks) {
      this.#then(async (numbers) => {
        if (task.do === 'load') await load?.();
        else if (task.do === 'compute') {
          this.#do(this.protocol.computed(task.ticket, await numbers.compute(task.microBatch)));
        } else this.#peer?.send(task.message, await numbers.gradient());
      });
    }
  }

  #then(task: (numbers: WorkerNumbers) => Promise<void>): void {
    this.#tasks = this.#tasks
      .then(() => (this.#isOver || !this.#numbers ? undefined : task(this.#numbers)))
      .catch((error: unknown) => this.#end.reject(error));
  }

  [Symbol.dispose](): void {
    this.#isOver = true;
    if (this.#timer) clearInterval(this.#timer);
    this.#peer?.close();
  }
}
