// Many workers in one process: the very protocol of src/dist/parameter-server/protocol.ts in virtual time, on a network that
// loses, doubles, delays, reorders and cuts, with workers that crash, come back, and are of any speed.
//
// The problem: find the mean of vectors that each micro-batch has one of, by gradient descent; its coordinates are split
// between the servers. What the protocol promises is checked from outside, at every event.

import {
  readMessage,
  type ToCoordinator,
  type ToServer,
  type ToWorker,
  toCoordinator,
  toServer,
  toWorker,
} from '../../../src/dist/parameter-server/messages.js';
import { type Answers, Coordinator, type Sent, Shard } from '../../../src/dist/parameter-server/protocol.js';
import { Worker, type WorkerAnswers } from '../../../src/dist/parameter-server/worker.js';
import { Rng } from '../../support/rng.js';

export interface SimulationOptions {
  seed: number;
  workers: number;
  servers: number;
  staleness: number;
  /** Updates, and micro-batches each. */
  steps: number;
  microBatches: number;
  /** Updates between barriers. */
  barrierEvery: number;
  /** Probabilities a message. */
  loss: number;
  duplicates: number;
  /** Share of workers that are up to 20 times as slow. */
  stragglers: number;
  /** Mean seconds of a worker's life; 0: none dies. Of the dead, `rejoin` come back under another name. */
  lifeSeconds: number;
  rejoin: number;
  /** Seconds between cuts of a tenth of the workers, for as long as a lease and a half; 0: none. */
  cutEverySeconds: number;
  /** All but one die for good then. */
  lastOneFromSeconds?: number;
}

export interface SimulationResult {
  seconds: number;
  events: number;
  updates: number;
  /** ½ |x − mean|² before and after. */
  firstLoss: number;
  lastLoss: number;
  counts: Coordinator['counts'];
  staleness: readonly number[];
  /** Longest time between two updates. */
  longestGap: number;
}

const dimensions = 8;
const leaseMs = 4000;

interface Gradient {
  microBatch: number;
  version: number;
  values: number[];
}

/** A message with what would be its payload. */
interface Packet {
  message: unknown;
  payload?: unknown;
}

class Queue {
  #heap: { at: number; order: number; run: () => void }[] = [];
  #order = 0;

  push(at: number, run: () => void): void {
    const heap = this.#heap;
    const item = { at, order: this.#order++, run };
    let i = heap.push(item) - 1;
    while (i > 0) {
      const parent = (i - 1) >> 1;
      if (!isBefore(item, heap[parent] as typeof item)) break;
      heap[i] = heap[parent] as typeof item;
      i = parent;
    }
    heap[i] = item;
  }

  pop() {
    const heap = this.#heap;
    const [top] = heap;
    const last = heap.pop();
    if (heap.length === 0 || !last) return top;
    let i = 0;
    for (;;) {
      let child = 2 * i + 1;
      if (child >= heap.length) break;
      const [left, right] = [heap[child], heap[child + 1]];
      if (left && right && isBefore(right, left)) child++;
      if (!isBefore(heap[child] as typeof last, last)) break;
      heap[i] = heap[child] as typeof last;
      i = child;
    }
    heap[i] = last;
    return top;
  }
}

const isBefore = (a: { at: number; order: number }, b: { at: number; order: number }) =>
  a.at < b.at || (a.at === b.at && a.order < b.order);

function expect(condition: boolean, what: () => string): asserts condition {
  if (!condition) throw new Error(`the protocol broke its promise: ${what()}`);
}

/** A worker with its cache. */
interface Life {
  protocol: Worker;
  cache: number[];
  /** Milliseconds a micro-batch. */
  computeMs: number;
  isAlive: boolean;
  /** Nothing goes in or out before. */
  cutUntil: number;
  gradient: Gradient | null;
  computing: number | null;
}

/** Runs to the end. @throws Error when the protocol breaks a promise, or does not get on */
export function simulate(options: SimulationOptions): SimulationResult {
  const { servers, staleness, steps, microBatches, barrierEvery } = options;
  /** Greater steps than π/2 by the delay would not converge. */
  const rate = Math.min(0.1, 1 / (staleness + 1));
  const rng = new Rng(options.seed);
  const queue = new Queue();
  let now = 0;
  let events = 0;

  const vectors = Array.from({ length: steps * microBatches }, () =>
    Array.from({ length: dimensions }, () => 3 + rng.normal()),
  );
  const mean = Array.from(
    { length: dimensions },
    (_, d) => vectors.reduce((sum, v) => sum + (v[d] as number), 0) / vectors.length,
  );
  const lossOf = (x: readonly number[]) =>
    x.reduce((sum, value, d) => sum + 0.5 * (value - (mean[d] as number)) ** 2, 0);
  const ofServer = (server: number) =>
    Array.from({ length: dimensions }, (_, d) => d).filter((d) => d % servers === server);

  const coordinator = new Coordinator({
    ...{ servers, staleness, leaseMs, start: 0, steps },
    before: (update) => update * microBatches,
    barrierAfter: (version) => Math.min(steps, (Math.floor(version / barrierEvery) + 1) * barrierEvery),
  });
  const shards = Array.from({ length: servers }, (_, server) => ({
    protocol: new Shard<Gradient>(server, { start: 0, tensors: ofServer(server).length }),
    x: ofServer(server).map(() => 0),
    /** Of every version, to compare caches with. */
    history: [ofServer(server).map(() => 0)],
    sum: [] as number[],
    parts: [] as { gradient: Gradient; weight: number }[],
  }));
  const lives = new Map<string, Life>();
  const trained = new Set<number>();
  const partsOf: string[] = [];
  let lastUpdateAt = 0;
  let longestGap = 0;

  const isReached = (life: Life | undefined) => life === undefined || (life.isAlive && life.cutUntil <= now);

  /** Lets a packet go; it may never come, come twice, and be overtaken. */
  function send(from: Life | undefined, to: Life | undefined, packet: Packet, deliver: (packet: Packet) => void): void {
    // What is sent is JSON.
    const message: unknown = JSON.parse(JSON.stringify(packet.message));
    for (let copies = rng.uniform() < options.duplicates ? 2 : 1; copies > 0; copies--) {
      if (rng.uniform() < options.loss || !isReached(from)) continue;
      const delay = 2 - 8 * Math.log(1 - rng.uniform()) + (rng.uniform() < 0.01 ? 3000 * rng.uniform() : 0);
      queue.push(now + delay, () => {
        if (isReached(to)) deliver({ ...packet, message });
      });
    }
  }

  function fromCoordinator(sent: Sent[]): void {
    for (const { to, message } of sent) {
      if (typeof to === 'number') send(undefined, undefined, { message }, (packet) => atServer(to, packet));
      else sendToWorker(to, { message });
    }
  }
  const atCoordinator = ({ message }: Packet) => {
    fromCoordinator(coordinator.receive(readMessage<ToCoordinator>(toCoordinator, message), now));
  };
  const sendToCoordinator = (from: Life | undefined, message: ToCoordinator) =>
    send(from, undefined, { message }, atCoordinator);
  const sendToWorker = (name: string, packet: Packet) => {
    const life = lives.get(name);
    if (life) send(undefined, life, packet, (arrived) => atWorker(life, arrived));
  };

  function atServer(server: number, { message, payload }: Packet): void {
    const shard = shards[server] as (typeof shards)[number];
    serverDoes(
      server,
      shard.protocol.receive(readMessage<ToServer>(toServer, message), payload as Gradient | undefined),
    );
  }

  function serverDoes(server: number, { toCoordinator: told, tasks }: Answers<Gradient>): void {
    const shard = shards[server] as (typeof shards)[number];
    for (const message of told) sendToCoordinator(undefined, message);
    for (const task of tasks) {
      if (task.do === 'send') {
        const values = task.message.tensors.map((tensor) => shard.x[tensor]);
        sendToWorker(task.worker, { message: task.message, payload: values });
      } else if (task.do === 'sum') {
        shard.parts = task.parts;
        shard.sum = shard.x.map((_, i) =>
          task.parts.reduce((sum, { gradient, weight }) => sum + weight * (gradient.values[i] as number), 0),
        );
        const norm = shard.sum.reduce((sum, value) => sum + value ** 2, 0);
        queue.push(now + 1, () => serverDoes(server, shard.protocol.summed(norm)));
      } else {
        applied(server, task.update);
        queue.push(now + 1, () => serverDoes(server, shard.protocol.applied(shard.x.map((_, i) => i))));
      }
    }
  }

  /** One server makes an update: where the promises are looked at. */
  function applied(server: number, update: number): void {
    const shard = shards[server] as (typeof shards)[number];
    expect(
      update === shard.history.length - 1,
      () => `server ${server} makes update ${update} after ${shard.history.length - 1}`,
    );
    shard.x = shard.x.map((value, i) => value - rate * (shard.sum[i] as number));
    shard.history.push(shard.x);
    const numbers = shard.parts.map(({ gradient }) => gradient.microBatch).join();
    partsOf[update] ??= numbers;
    expect(partsOf[update] === numbers, () => `servers take different gradients for update ${update}`);
    if (server !== 0) return;
    expect(shard.parts.length === microBatches, () => `update ${update} takes ${shard.parts.length} micro-batches`);
    for (const { gradient } of shard.parts) {
      expect(
        gradient.version >= update - staleness,
        () => `update ${update} takes a gradient of version ${gradient.version}`,
      );
      expect(!trained.has(gradient.microBatch), () => `micro-batch ${gradient.microBatch} is trained on twice`);
      trained.add(gradient.microBatch);
    }
    if ((update + 1) % barrierEvery === 0) {
      const first = Math.max(...trained) + 1;
      expect(
        trained.size === first && first === (update + 1) * microBatches,
        () => `at barrier ${update + 1} something is missing`,
      );
    }
    longestGap = Math.max(longestGap, now - lastUpdateAt);
    lastUpdateAt = now;
  }

  function atWorker(life: Life, { message, payload }: Packet): void {
    workerDoes(
      life,
      life.protocol.receive(readMessage<ToWorker>(toWorker, message)),
      message as ToWorker,
      payload as number[],
    );
  }

  function workerDoes(
    life: Life,
    { toCoordinator: told, toServers, tasks }: WorkerAnswers,
    at?: ToWorker,
    payload?: number[],
  ): void {
    for (const message of told) sendToCoordinator(life, message);
    for (const { to, message } of toServers) send(life, undefined, { message }, (packet) => atServer(to, packet));
    for (const task of tasks) {
      if (task.do === 'load') {
        if (at?.type !== 'parameters') throw new Error('nothing to load');
        const { server, version, tensors } = at;
        const coordinates = ofServer(server);
        for (const [i, tensor] of tensors.entries()) life.cache[coordinates[tensor] as number] = payload?.[i] as number;
        const right = shards[server]?.history[version];
        const isRight = coordinates.every((d, i) => life.cache[d] === right?.[i]);
        expect(isRight, () => `the cache of ${life.protocol.name} is not version ${version} of server ${server}`);
      } else if (task.do === 'compute') {
        const { ticket, microBatch } = task;
        const { version } = life.protocol;
        const target = vectors[microBatch] as number[];
        const values = life.cache.map((value, d) => value - (target[d] as number));
        life.computing = ticket;
        queue.push(now + life.computeMs * (0.5 + rng.uniform()), () => {
          if (!life.isAlive || life.computing !== ticket) return;
          life.gradient = { microBatch, version, values };
          workerDoes(life, life.protocol.computed(ticket, 1 + rng.integer(9)));
        });
      } else {
        const { microBatch, version, values } = life.gradient as Gradient;
        for (let server = 0; server < servers; server++) {
          const part = { microBatch, version, values: ofServer(server).map((d) => values[d] as number) };
          send(life, undefined, { message: task.message, payload: part }, (packet) => atServer(server, packet));
        }
      }
    }
  }

  let born = 0;
  function join(): void {
    const life: Life = {
      protocol: new Worker(`worker-${born++}`, servers),
      cache: new Array<number>(dimensions).fill(Number.NaN),
      computeMs: 400 * (rng.uniform() < options.stragglers ? 1 + 19 * rng.uniform() : 0.5 + rng.uniform()),
      ...{ isAlive: true, cutUntil: 0, gradient: null, computing: null },
    };
    lives.set(life.protocol.name, life);
    const again = (): void => {
      if (!life.isAlive || life.protocol.hasEnded) return;
      workerDoes(life, life.protocol.again());
      queue.push(now + leaseMs / 4, again);
    };
    queue.push(now + 1000 * rng.uniform(), again);
    if (options.lifeSeconds === 0) return;
    queue.push(now - 1000 * options.lifeSeconds * Math.log(1 - rng.uniform()), () => die(life));
  }
  function die(life: Life): void {
    if (!life.isAlive || living().length === 1) return;
    if (rng.uniform() < 0.3) workerDoes(life, life.protocol.leave()); // says so, at least
    life.isAlive = false;
    const isOver = options.lastOneFromSeconds !== undefined && now > 1000 * options.lastOneFromSeconds;
    if (!isOver && rng.uniform() < options.rejoin) queue.push(now + 8000 * rng.uniform(), join);
  }
  const living = () => [...lives.values()].filter(({ isAlive }) => isAlive);

  for (let i = 0; i < options.workers; i++) join();
  const { lastOneFromSeconds, cutEverySeconds } = options;
  if (lastOneFromSeconds !== undefined) {
    queue.push(1000 * lastOneFromSeconds + 1, () => {
      for (const life of living()) die(life);
    });
  }
  const cut = (): void => {
    for (const life of living()) if (rng.uniform() < 0.1) life.cutUntil = now + 1.5 * leaseMs;
    queue.push(now + 1000 * cutEverySeconds, cut);
  };
  if (cutEverySeconds > 0) queue.push(1000 * cutEverySeconds, cut);
  const tick = (): void => {
    fromCoordinator(coordinator.tick(now));
    queue.push(now + 500, tick);
  };
  tick();

  const patienceMs = 120_000;
  while (!coordinator.hasEnded) {
    const event = queue.pop();
    if (!event) throw new Error('nothing happens any more');
    now = event.at;
    events++;
    expect(
      now - lastUpdateAt < patienceMs,
      () =>
        `no update for ${patienceMs / 1000} s after ${shards[0]?.protocol.version}, ${living().length} workers live`,
    );
    event.run();
  }
  expect(
    trained.size === steps * microBatches,
    () => `${trained.size} of ${steps * microBatches} micro-batches are trained on`,
  );
  const x = (history: (shard: (typeof shards)[number]) => number[]) => {
    const whole = new Array<number>(dimensions);
    for (const [server, shard] of shards.entries())
      for (const [i, d] of ofServer(server).entries()) whole[d] = history(shard)[i] as number;
    return whole;
  };
  return {
    ...{ seconds: now / 1000, events, longestGap: longestGap / 1000 },
    updates: coordinator.version,
    firstLoss: lossOf(x(({ history }) => history[0] as number[])),
    lastLoss: lossOf(x((shard) => shard.x)),
    counts: coordinator.counts,
    staleness: coordinator.staleness,
  };
}
