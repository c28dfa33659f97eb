// Framed messages over TCP between processes that know the run's secret.
//
// A connection begins with a proof of both sides (HMAC-SHA256, token as key; the token itself is never sent):
//   server → client   magic (8 bytes), nonce s (32)
//   client → server   magic (8), nonce c (32), HMAC('client' s c) (32)
//   server → client   HMAC('server' c s) (32)
// Then frames, both ways: uint32 bytes of JSON, uint32 bytes of payload (little-endian), JSON, payload. What is sent is not
// encrypted, nor is each frame proved: it keeps strangers out, not those who can change packets under way.
import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import { createServer, connect as openSocket, type Server, type Socket } from 'node:net';
import { HadalError } from '../core/errors.js';
import { parseJson } from '../core/json.js';

const magic = Buffer.from('hadal/1\n');
const nonceBytes = 32;
const proofBytes = 32;
const headerBytes = 8;

/** What both sides of a connection agree on. */
export interface TransportOptions {
  /** The run's secret. */
  token: string;
  /** The most a message's JSON may take; 1 MiB. */
  messageBytes?: number;
  /** The most a payload may take; 64 MiB. */
  payloadBytes?: number;
  /** Milliseconds that a peer has to prove itself; 5,000. */
  handshakeMs?: number;
}

/** What is done with what comes. */
export interface PeerHandlers {
  /**
   * A message. The next one waits for the promise, and so does the sender, when buffers are full. What it throws closes the
   * connection.
   *
   * @param payload - the handler's to keep; empty when the message has none
   */
  onMessage(message: unknown, payload: Uint8Array): void | Promise<void>;
  /** Called once, whoever closed it. */
  onClose(reason: string): void;
}

export interface ListenOptions extends TransportOptions {
  /** Address to listen on. */
  host: string;
  /** 0: any that is free. */
  port: number;
  /** The most connections that have proved themselves; 4,096. */
  connections?: number;
  /** The most that have not, yet: beyond it, the oldest of them is closed; 64. */
  strangers?: number;
  /** A peer that knows the secret; it must call {@link Peer.receive}. */
  onPeer(peer: Peer): void;
  /** One that was sent away, and why. */
  onRefused?(address: string, reason: string): void;
}

export interface ConnectOptions extends TransportOptions {
  host: string;
  port: number;
  signal?: AbortSignal;
}

/** A listening socket. */
export interface Listener extends AsyncDisposable {
  readonly host: string;
  readonly port: number;
}

const defaults = { messageBytes: 2 ** 20, payloadBytes: 2 ** 26, handshakeMs: 5000 };

type Limits = typeof defaults;

function limitsOf({ messageBytes, payloadBytes, handshakeMs }: TransportOptions): Limits {
  return {
    messageBytes: messageBytes ?? defaults.messageBytes,
    payloadBytes: payloadBytes ?? defaults.payloadBytes,
    handshakeMs: handshakeMs ?? defaults.handshakeMs,
  };
}

function proof(token: string, ...parts: (string | Uint8Array)[]): Buffer {
  const hmac = createHmac('sha256', token);
  for (const part of parts) hmac.update(part);
  return hmac.digest();
}

/** One end of a connection to a peer that knows the secret. */
export class Peer {
  readonly localAddress: string;
  readonly remoteAddress: string;
  /** When the last bytes came, by `performance.now()`. */
  heardMs = performance.now();
  #handlers: PeerHandlers | null = null;
  #isReading = false;
  #hasEnded = false;
  #closed: string | null = null;
  #drained: { resolve: () => void; reject: (error: Error) => void }[] = [];
  readonly #frames: FrameReader;

  /** @internal */
  constructor(
    readonly socket: Socket,
    readonly limits: Limits,
    /** What came behind the proof. */
    rest: Uint8Array,
  ) {
    this.localAddress = plainAddress(socket.localAddress);
    this.remoteAddress = `${plainAddress(socket.remoteAddress)}:${socket.remotePort}`;
    this.#frames = new FrameReader(limits);
    this.#frames.push(rest);
    socket.setNoDelay(true).setKeepAlive(true, 5000).setTimeout(0);
    socket.on('data', (chunk) => {
      this.heardMs = performance.now();
      this.#frames.push(chunk);
      void this.#read();
    });
    socket.on('drain', () => {
      for (const { resolve } of this.#drained.splice(0)) resolve();
    });
    // Not before what came has been delivered.
    const end = (): void => {
      this.#hasEnded = true;
      void this.#read();
    };
    socket.on('end', end).on('close', end);
    socket.on('error', (error) => this.close(error.message));
    socket.pause();
  }

  get isClosed(): boolean {
    return this.#closed !== null;
  }

  /** Begins to deliver; what has come meanwhile is not lost. */
  receive(handlers: PeerHandlers): void {
    this.#handlers = handlers;
    if (this.#closed !== null) handlers.onClose(this.#closed);
    else void this.#read();
  }

  /**
   * Sends a message; to a closed connection, nothing.
   *
   * @param message - plain JSON
   * @param payload - not to be changed until {@link drained}
   * @returns false when so much is under way that the sender should await {@link drained}
   * @throws HadalError HADAL_ERR_COMM for what is beyond the limits
   */
  send(message: unknown, payload?: Uint8Array): boolean {
    const json = Buffer.from(JSON.stringify(message), 'utf8');
    const bytes = payload?.byteLength ?? 0;
    if (json.length > this.limits.messageBytes || bytes > this.limits.payloadBytes) {
      const { messageBytes, payloadBytes } = this.limits;
      throw new HadalError(
        'HADAL_ERR_COMM',
        `[comm] expected a message of at most ${messageBytes} bytes and a payload of at most ${payloadBytes}, got ${json.length} and ${bytes}`,
      );
    }
    if (this.#closed !== null) return true;
    const head = Buffer.allocUnsafe(headerBytes + json.length);
    head.writeUInt32LE(json.length, 0);
    head.writeUInt32LE(bytes, 4);
    json.copy(head, headerBytes);
    this.socket.cork();
    let hasRoom = this.socket.write(head);
    if (payload && bytes > 0) hasRoom = this.socket.write(payload);
    this.socket.uncork();
    // One that reads no more (a stopped process) must not eat the memory of one that serves many.
    if (this.socket.writableLength > 8 * (this.limits.messageBytes + this.limits.payloadBytes)) {
      this.close('it does not read what it is sent');
    }
    return hasRoom;
  }

  /** Waits until what was sent is with the system. @throws HadalError HADAL_ERR_COMM when the connection closes before */
  async drained(): Promise<void> {
    if (this.#closed !== null) throw closedError(this.#closed);
    if (!this.socket.writableNeedDrain) return;
    await new Promise<void>((resolve, reject) => this.#drained.push({ resolve, reject }));
  }

  /** Closes after what was sent has gone out; at once when there is a reason to. */
  close(reason?: string): void {
    if (this.#closed !== null) return;
    this.#closed = reason ?? 'the connection was closed';
    if (reason === undefined) {
      this.socket.resume().end();
      // The other side may never close its half.
      setTimeout(() => this.socket.destroy(), 1000).unref();
    } else {
      this.socket.destroy();
    }
    for (const { reject } of this.#drained.splice(0)) reject(closedError(this.#closed));
    this.#handlers?.onClose(this.#closed);
  }

  /** Delivers what is whole, one after the other. */
  async #read(): Promise<void> {
    if (this.#isReading || !this.#handlers) return;
    this.#isReading = true;
    try {
      for (;;) {
        const frame = this.#frames.next();
        if (!frame || this.#closed !== null) break;
        const handled = this.#handlers.onMessage(frame.message, frame.payload);
        if (handled) {
          this.socket.pause();
          await handled;
        }
      }
      if (this.#hasEnded) this.close('the connection was closed by the other side');
      else if (this.#closed === null) this.socket.resume();
    } catch (error) {
      this.close((error as Error).message);
    } finally {
      this.#isReading = false;
    }
  }
}

function closedError(reason: string): HadalError {
  return new HadalError('HADAL_ERR_COMM', `[comm] expected an open connection, got a closed one: ${reason}`);
}

/** Cuts a stream of bytes into frames. */
class FrameReader {
  #chunks: Uint8Array[] = [];
  #bytes = 0;
  #sizes: { json: number; payload: number } | null = null;

  constructor(readonly limits: Limits) {}

  push(chunk: Uint8Array): void {
    if (chunk.length === 0) return;
    this.#chunks.push(chunk);
    this.#bytes += chunk.length;
  }

  /** The next frame when all of it is there. @throws HadalError HADAL_ERR_FORMAT */
  next(): { message: unknown; payload: Uint8Array } | null {
    if (!this.#sizes) {
      if (this.#bytes < headerBytes) return null;
      const header = this.#take(headerBytes);
      const sizes = { json: header.readUInt32LE(0), payload: header.readUInt32LE(4) };
      if (sizes.json > this.limits.messageBytes || sizes.payload > this.limits.payloadBytes) {
        throw new HadalError(
          'HADAL_ERR_FORMAT',
          `[comm] expected a message of at most ${this.limits.messageBytes} bytes and a payload of at most ${this.limits.payloadBytes}, got ${sizes.json} and ${sizes.payload}`,
        );
      }
      this.#sizes = sizes;
    }
    const { json, payload } = this.#sizes;
    if (this.#bytes < json + payload) return null;
    this.#sizes = null;
    const message = parseJson(this.#take(json), { part: 'comm', what: 'a message' });
    return { message, payload: this.#take(payload) };
  }

  /** The next bytes, in memory of their own. */
  #take(count: number): Buffer {
    const taken = Buffer.allocUnsafeSlow(count);
    let at = 0;
    let used = 0;
    while (at < count) {
      const chunk = this.#chunks[used] as Uint8Array;
      const part = chunk.subarray(0, count - at);
      taken.set(part, at);
      at += part.length;
      if (part.length === chunk.length) used++;
      else this.#chunks[used] = chunk.subarray(part.length);
    }
    this.#chunks.splice(0, used);
    this.#bytes -= count;
    return taken;
  }
}

/** The first `count` bytes of a socket, and what came with them. */
function readExactly(socket: Socket, count: number, before: Uint8Array): Promise<{ bytes: Buffer; rest: Buffer }> {
  return new Promise((resolve, reject) => {
    let got = Buffer.from(before);
    const finish = (settle: () => void): void => {
      socket.pause();
      socket.off('data', onData).off('end', onEnd).off('close', onEnd).off('error', onError);
      settle();
    };
    const onData = (chunk: Uint8Array): void => {
      got = Buffer.concat([got, chunk]);
      if (got.length >= count) finish(() => resolve({ bytes: got.subarray(0, count), rest: got.subarray(count) }));
    };
    const onEnd = (): void => finish(() => reject(new Error('the connection was closed before both sides were known')));
    const onError = (error: Error): void => finish(() => reject(error));
    socket.on('data', onData).on('end', onEnd).on('close', onEnd).on('error', onError);
    onData(Buffer.alloc(0));
    if (got.length < count) socket.resume();
  });
}

async function welcome(socket: Socket, token: string): Promise<Buffer> {
  const ours = randomBytes(nonceBytes);
  socket.write(Buffer.concat([magic, ours]));
  const { bytes, rest } = await readExactly(socket, magic.length + nonceBytes + proofBytes, Buffer.alloc(0));
  const theirs = bytes.subarray(magic.length, magic.length + nonceBytes);
  if (!bytes.subarray(0, magic.length).equals(magic)) throw new Error('it does not speak our protocol');
  if (!timingSafeEqual(bytes.subarray(-proofBytes), proof(token, 'client', ours, theirs))) {
    throw new Error('it does not know the token of this run');
  }
  socket.write(proof(token, 'server', theirs, ours));
  return rest;
}

async function introduce(socket: Socket, token: string): Promise<Buffer> {
  const greeting = await readExactly(socket, magic.length + nonceBytes, Buffer.alloc(0));
  if (!greeting.bytes.subarray(0, magic.length).equals(magic)) throw new Error('it does not speak our protocol');
  const theirs = greeting.bytes.subarray(magic.length);
  const ours = randomBytes(nonceBytes);
  socket.write(Buffer.concat([magic, ours, proof(token, 'client', theirs, ours)]));
  const { bytes, rest } = await readExactly(socket, proofBytes, greeting.rest);
  if (!timingSafeEqual(bytes, proof(token, 'server', ours, theirs))) {
    throw new Error('it does not know the token of this run');
  }
  return rest;
}

/** Runs the proof of one side within its time. */
async function proved(socket: Socket, options: TransportOptions, side: typeof welcome): Promise<Peer> {
  const limits = limitsOf(options);
  const timer = setTimeout(() => {
    const within = `within ${limits.handshakeMs} ms`;
    // What a way without an answer is to the system, only that it takes minutes to say so.
    const unreached = () => Object.assign(new Error(`no answer ${within}`), { code: 'ETIMEDOUT' });
    socket.destroy(socket.connecting ? unreached() : new Error(`it did not prove itself ${within}`));
  }, limits.handshakeMs);
  try {
    return new Peer(socket, limits, await side(socket, options.token));
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Listens for peers that know the secret.
 *
 * @throws HadalError HADAL_ERR_COMM when the address cannot be had
 */
export async function listen(options: ListenOptions): Promise<Listener> {
  const { host, port, connections = 4096, strangers = 64, onPeer, onRefused } = options;
  const pending = new Set<Socket>();
  const peers = new Set<Peer>();
  const server = createServer((socket) => {
    socket.on('error', () => {}); // what fails is told where it is awaited
    pending.add(socket);
    const address = `${plainAddress(socket.remoteAddress)}:${socket.remotePort}`;
    const [oldest] = pending;
    if (pending.size > strangers) oldest?.destroy(new Error('too many came that did not prove themselves'));
    proved(socket, options, welcome)
      .then((peer) => {
        if (peers.size >= connections) throw new Error(`there are ${connections} connections already`);
        peers.add(peer);
        socket.once('close', () => peers.delete(peer));
        onPeer(peer);
      })
      .catch((error: Error) => {
        socket.destroy();
        onRefused?.(address, error.message);
      })
      .finally(() => pending.delete(socket));
  });
  server.maxConnections = connections + strangers + 1;
  await listening(server, host, port);
  const address = server.address() as { address: string; port: number };
  return {
    host: address.address,
    port: address.port,
    [Symbol.asyncDispose]: async () => {
      const ended = new Promise<void>((resolve) => server.close(() => resolve()));
      for (const socket of pending) socket.destroy();
      for (const peer of peers) peer.close();
      await ended;
    },
  };
}

async function listening(server: Server, host: string, port: number): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) =>
      reject(
        new HadalError('HADAL_ERR_COMM', `[comm] expected to listen on ${host}:${port}, got: ${error.message}`, {
          cause: error,
        }),
      ),
    );
    server.listen({ host, port, backlog: 1024 }, resolve);
  });
}

/**
 * Connects to a listener that knows the secret, once: who may come before it, tries again.
 *
 * @throws HadalError HADAL_ERR_COMM, whose cause is the system's error where there is one; HADAL_ERR_ABORTED
 */
export async function connect(options: ConnectOptions): Promise<Peer> {
  const { host, port, signal } = options;
  const socket = openSocket({ host, port });
  socket.on('error', () => {}); // told where it is awaited
  const stop = (): void => void socket.destroy(new Error('it was interrupted'));
  signal?.addEventListener('abort', stop, { once: true });
  if (signal?.aborted) stop();
  try {
    return await proved(socket, options, introduce);
  } catch (error) {
    socket.destroy();
    const code = signal?.aborted ? 'HADAL_ERR_ABORTED' : 'HADAL_ERR_COMM';
    const message = `[comm] expected a process of this run at ${host}:${port}, got: ${(error as Error).message}; is HADAL_TOKEN the same everywhere?`;
    throw new HadalError(code, message, { cause: error });
  } finally {
    signal?.removeEventListener('abort', stop);
  }
}

/** `127.0.0.1`, also where the system writes it as IPv6. */
function plainAddress(address: string | undefined): string {
  return (address ?? 'nowhere').replace(/^::ffff:(?=\d+\.)/, '');
}
