// A TCP relay that behaves like a poor network: delay, a limited rate, losses, a cut cable.
import { connect, createServer, type Server, type Socket } from 'node:net';

/** What a relay does to what passes it, each way. */
export interface RelayBehaviour {
  /** One way. */
  delayMs: number;
  /** Megabits a second, of every connection together; null: as fast as it goes. */
  mbit: number | null;
  /** Of every 64 KiB, the probability that they are lost: what follows waits until they were sent again. */
  loss: number;
  /** How long that takes: TCP's least waiting time before it repeats. */
  stallMs: number;
  /** Nothing passes, and no end says so; what was under way arrives once it is mended. */
  isCut: boolean;
}

export const undisturbed: RelayBehaviour = { delayMs: 0, mbit: null, loss: 0, stallMs: 200, isCut: false };

interface Endpoint {
  host: string;
  port: number;
}

export interface RelayOptions extends Partial<RelayBehaviour> {
  /** Where it listens. */
  host?: string;
  /** 0: any free one. */
  ports?: readonly number[];
  /** Where connections go on to; default: the address that they were meant for, which takes routing to get here. */
  to?: Endpoint;
  /** Of the losses. */
  seed?: number;
}

export interface Relay extends AsyncDisposable {
  /** Where it listens, in the order of `ports`. */
  readonly ports: readonly number[];
  readonly behaviour: RelayBehaviour;
  /** Changes what it does, from now on. */
  set(change: Partial<RelayBehaviour>): void;
  /** Ends all connections at once, as a middlebox does that forgets them. */
  reset(): void;
}

/** Held of a connection and way before its sender has to wait; more than 2 ms of 1 Gbit/s. */
const mostHeld = 4 * 2 ** 20;
const lossUnit = 64 * 2 ** 10;

export async function startRelay({
  host = '127.0.0.1',
  ports = [0],
  to,
  seed = 1,
  ...behaviour
}: RelayOptions): Promise<Relay> {
  const wire: Wire = { ...undisturbed, ...behaviour, freeAt: [0, 0], random: generator(seed), ways: new Set() };
  const sockets = new Set<Socket>();
  const servers = await Promise.all(ports.map((port) => listen(host, port, accept)));

  function accept(near: Socket): void {
    const target = to ?? { host: near.localAddress as string, port: near.localPort as number };
    const far = connect({ ...target, allowHalfOpen: true, noDelay: true });
    const ways = [new Way(wire, 0, near, far), new Way(wire, 1, far, near)];
    for (const socket of [near, far]) {
      sockets.add(socket);
      socket.on('error', () => {}); // 'close' follows
      socket.on('close', (hadError) => {
        sockets.delete(socket);
        const other = socket === near ? far : near;
        if (hadError || !socket.readableEnded) other.destroy();
        if (near.destroyed && far.destroyed) for (const way of ways) wire.ways.delete(way);
      });
    }
    for (const way of ways) wire.ways.add(way);
  }

  return {
    ports: servers.map((server) => (server.address() as { port: number }).port),
    behaviour: wire,
    set(change) {
      Object.assign(wire, change);
      for (const way of wire.ways) way.deliver();
    },
    reset() {
      for (const socket of sockets) socket.resetAndDestroy();
    },
    async [Symbol.asyncDispose]() {
      const closed = servers.map((server) => new Promise((resolve) => server.close(resolve)));
      for (const socket of sockets) socket.destroy();
      for (const way of wire.ways) way.end();
      await Promise.all(closed);
    },
  };
}

interface Wire extends RelayBehaviour {
  /** When what was given to the wire so far has left it, each way. */
  freeAt: [number, number];
  random: () => number;
  ways: Set<Way>;
}

/** One direction of a connection. */
class Way {
  readonly #wire: Wire;
  readonly #direction: 0 | 1;
  readonly #from: Socket;
  readonly #to: Socket;
  /** What is under way; null: the sender's end of the stream. */
  readonly #held: { data: Buffer | null; at: number }[] = [];
  #heldBytes = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(wire: Wire, direction: 0 | 1, from: Socket, to: Socket) {
    this.#wire = wire;
    this.#direction = direction;
    this.#from = from;
    this.#to = to;
    from.on('data', (data: Buffer) => this.#take(data));
    from.on('end', () => this.#take(null));
    to.on('drain', () => this.deliver());
    to.on('connect', () => this.deliver());
  }

  #take(data: Buffer | null): void {
    const { delayMs, mbit, loss, stallMs, freeAt, random } = this.#wire;
    const bytes = data?.length ?? 0;
    let sent = Math.max(performance.now(), freeAt[this.#direction] ?? 0);
    if (mbit !== null) sent += (8 * bytes) / (1000 * mbit);
    if (mbit !== null) freeAt[this.#direction] = sent;
    const before = this.#held.at(-1)?.at ?? 0;
    if (loss > 0 && random() < 1 - (1 - loss) ** (bytes / lossUnit)) sent += stallMs;
    this.#held.push({ data, at: Math.max(before, sent + delayMs) });
    this.#heldBytes += bytes;
    if (this.#heldBytes > mostHeld) this.#from.pause();
    this.deliver();
  }

  /** Passes on what is due. */
  deliver(): void {
    clearTimeout(this.#timer);
    if (this.#wire.isCut || this.#to.destroyed || this.#to.connecting) return;
    // Timers are of whole milliseconds; what is due within half of one goes now.
    const due = performance.now() + 0.5;
    while (!this.#to.writableNeedDrain) {
      const first = this.#held[0];
      if (first === undefined) break;
      if (first.at > due) {
        this.#timer = setTimeout(() => this.deliver(), first.at - due + 0.5);
        break;
      }
      this.#held.shift();
      if (first.data === null) this.#to.end();
      else {
        this.#heldBytes -= first.data.length;
        this.#to.write(first.data);
      }
    }
    if (this.#heldBytes <= mostHeld && this.#from.isPaused()) this.#from.resume();
  }

  end(): void {
    clearTimeout(this.#timer);
  }
}

function listen(host: string, port: number, accept: (socket: Socket) => void): Promise<Server> {
  return new Promise((resolve, reject) => {
    const server = createServer({ allowHalfOpen: true, noDelay: true }, accept);
    server.once('error', reject);
    server.listen(port, host, () => resolve(server));
  });
}

/** Park and Miller's. */
function generator(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state * 48271) % 2147483647;
    return state / 2147483647;
  };
}
