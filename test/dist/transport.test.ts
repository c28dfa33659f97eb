// The transport between processes: what arrives is what was sent, strangers get nowhere, and no peer can hurt another.
import { connect as openSocket, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import fc from 'fast-check';
import { afterEach, expect, test } from 'vitest';
import { connect, type Listener, type ListenOptions, listen, type Peer } from '../../src/dist/transport.js';

const token = 'a secret of sixteen characters or more';
const host = '127.0.0.1';
const closing: (() => unknown)[] = [];

afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

/** A listener that echoes, unless told otherwise. */
async function echoing(options: Partial<ListenOptions> = {}): Promise<Listener & { refused: string[] }> {
  const refused: string[] = [];
  const listener = await listen({
    host,
    port: 0,
    token,
    onPeer: (peer) =>
      peer.receive({ onMessage: (message, payload) => void peer.send(message, payload), onClose: () => {} }),
    onRefused: (_, reason) => refused.push(reason),
    ...options,
  });
  closing.push(() => listener[Symbol.asyncDispose]());
  return Object.assign(listener, { refused });
}

interface Client {
  peer: Peer;
  /** The next message. */
  next(): Promise<{ message: unknown; payload: Uint8Array }>;
  closed: Promise<string>;
}

async function client(port: number, options: Partial<Parameters<typeof connect>[0]> = {}): Promise<Client> {
  const peer = await connect({ host, port, token, ...options });
  closing.push(() => peer.close());
  const queue: { message: unknown; payload: Uint8Array }[] = [];
  const waiting: ((got: { message: unknown; payload: Uint8Array }) => void)[] = [];
  const closed = new Promise<string>((resolve) => {
    peer.receive({
      onMessage: (message, payload) => {
        const resolveNext = waiting.shift();
        if (resolveNext) resolveNext({ message, payload });
        else queue.push({ message, payload });
      },
      onClose: resolve,
    });
  });
  const next = async () =>
    queue.shift() ?? new Promise<{ message: unknown; payload: Uint8Array }>((r) => waiting.push(r));
  return { peer, next, closed };
}

/** A socket that knows nothing of the protocol. */
function stranger(port: number): Promise<Socket> {
  return new Promise((resolve) => {
    const socket = openSocket({ host, port }, () => resolve(socket));
    socket.on('error', () => {});
    closing.push(() => socket.destroy());
  });
}

const ended = (socket: Socket): Promise<void> =>
  new Promise((resolve) => {
    socket.resume().once('close', () => resolve());
  });

async function expectAlive({ peer, next }: Client): Promise<void> {
  peer.send({ are: 'you there' }, Uint8Array.of(1, 2, 3));
  expect(await next()).toEqual({ message: { are: 'you there' }, payload: Buffer.from([1, 2, 3]) });
}

test('messages arrive as they were sent, however the wire cuts them', async () => {
  const listener = await echoing();
  const { peer, next } = await client(listener.port);
  const messages = fc.array(fc.tuple(fc.jsonValue(), fc.uint8Array({ maxLength: 5000 })), {
    minLength: 1,
    maxLength: 8,
  });
  await fc.assert(
    fc.asyncProperty(messages, fc.array(fc.integer({ min: 1, max: 700 }), { minLength: 1 }), async (sent, cuts) => {
      const frames = sent.map(([message, payload]) => {
        const json = Buffer.from(JSON.stringify(message));
        const header = Buffer.alloc(8);
        header.writeUInt32LE(json.length, 0);
        header.writeUInt32LE(payload.length, 4);
        return Buffer.concat([header, json, payload]);
      });
      const wire = Buffer.concat(frames);
      for (let at = 0, i = 0; at < wire.length; i++) {
        const end = at + (cuts[i % cuts.length] as number);
        peer.socket.write(wire.subarray(at, end));
        if (i < 20) await new Promise(setImmediate);
        at = end;
      }
      for (const [message, payload] of sent) {
        const got = await next();
        expect(got.message).toEqual(JSON.parse(JSON.stringify(message)));
        expect(Buffer.compare(got.payload, payload)).toBe(0);
      }
    }),
    { numRuns: 40 },
  );
});

test('garbage of strangers makes no peer and disturbs none', async () => {
  let peers = 0;
  const listener = await echoing({
    onPeer: (peer) => {
      peers++;
      peer.receive({ onMessage: (message, payload) => void peer.send(message, payload), onClose: () => {} });
    },
  });
  const friend = await client(listener.port);
  const opening = Buffer.from('hadal/1\n');
  await fc.assert(
    fc.asyncProperty(fc.boolean(), fc.uint8Array({ maxLength: 300 }), async (knowsMagic, bytes) => {
      const socket = await stranger(listener.port);
      const over = ended(socket);
      socket.end(knowsMagic ? Buffer.concat([opening, bytes]) : bytes);
      await over;
      await expectAlive(friend);
    }),
    { numRuns: 60 },
  );
  expect(peers).toBe(1);
});

test('garbage of a peer that knows the secret ends its own connection, no other', async () => {
  const listener = await echoing({ messageBytes: 1000, payloadBytes: 1000 });
  const friend = await client(listener.port, { messageBytes: 1000, payloadBytes: 1000 });
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ minLength: 12, maxLength: 200 }), async (bytes) => {
      const bad = await client(listener.port);
      bad.peer.socket.end(bytes);
      await bad.closed;
      await expectAlive(friend);
    }),
    { numRuns: 40 },
  );
});

test.each([
  ['a message', [0xffffffff, 0]],
  ['a payload', [2, 0x7fffffff]],
])('%s of a huge length is refused before any of it is kept', async (_, [json, payload]) => {
  const listener = await echoing();
  const bad = await client(listener.port);
  const header = Buffer.alloc(8);
  header.writeUInt32LE(json as number, 0);
  header.writeUInt32LE(payload as number, 4);
  const before = process.memoryUsage().arrayBuffers;
  bad.peer.socket.write(header);
  await bad.closed;
  expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(2 ** 22);
  expect(() => bad.peer.send({}, new Uint8Array(2 ** 26 + 1))).toThrow(
    /payload of at most 67108864, got 2 and 67108865/,
  );
});

test('those that say nothing, or too slowly, are sent away in time and shut nobody out', async () => {
  const listener = await echoing({ handshakeMs: 300, strangers: 16 });
  const silent = await Promise.all(Array.from({ length: 60 }, () => stranger(listener.port)));
  const over = Promise.all(silent.map(ended));
  const slow = silent[59] as Socket;
  const drip = setInterval(() => slow.write('h'), 20);
  closing.push(() => clearInterval(drip));
  await expectAlive(await client(listener.port));
  await over;
  expect(listener.refused.filter((reason) => reason.includes('too many')).length).toBeGreaterThan(0);
  expect(listener.refused.filter((reason) => reason.includes('within 300 ms')).length).toBeGreaterThan(0);
});

test('each side finds out when the other does not know the token', async () => {
  const listener = await echoing();
  await expect(client(listener.port, { token: 'some other secret' })).rejects.toMatchObject({
    code: 'HADAL_ERR_COMM',
    message: expect.stringMatching(/is HADAL_TOKEN the same everywhere/),
  });
  expect(listener.refused).toEqual(['it does not know the token of this run']);
  // A server that cannot prove itself, though it lets everybody in.
  const { createServer } = await import('node:net');
  const server = createServer((socket) => {
    socket.on('error', () => {});
    socket.write(Buffer.concat([Buffer.from('hadal/1\n'), Buffer.alloc(32)]));
    socket.once('data', () => socket.write(Buffer.alloc(32)));
  });
  await new Promise<void>((resolve) => server.listen(0, host, resolve));
  closing.push(() => server.close());
  const { port } = server.address() as { port: number };
  await expect(client(port)).rejects.toThrow('it does not know the token of this run');
});

test('the token itself is never on the wire', async () => {
  const listener = await echoing();
  const { createServer } = await import('node:net');
  const seen: Buffer[] = [];
  const relay = createServer((from) => {
    const to = openSocket({ host, port: listener.port });
    for (const [a, b] of [
      [from, to],
      [to, from],
    ] as const) {
      a.on('error', () => {}).on('close', () => b.destroy());
      a.on('data', (chunk) => {
        seen.push(chunk);
        b.write(chunk);
      });
    }
  });
  await new Promise<void>((resolve) => relay.listen(0, host, resolve));
  closing.push(() => relay.close());
  await expectAlive(await client((relay.address() as { port: number }).port));
  const wire = Buffer.concat(seen);
  expect(wire.includes('are')).toBe(true);
  expect(wire.includes(token.slice(0, 8))).toBe(false);
});

test('a slow reader holds the sender back, and one that never reads is closed', async () => {
  let release = (): void => {};
  const held = new Promise<void>((resolve) => {
    release = resolve;
  });
  let received = 0;
  const listener = await echoing({
    messageBytes: 1000,
    payloadBytes: 2 ** 20,
    onPeer: (peer) =>
      peer.receive({
        onMessage: async () => {
          await held;
          received++;
        },
        onClose: () => {},
      }),
  });
  const limits = { messageBytes: 1000, payloadBytes: 2 ** 20 };
  const polite = await client(listener.port, limits);
  const block = new Uint8Array(2 ** 20);
  let sent = 1;
  while (polite.peer.send({}, block)) sent++;
  let isDrained = false;
  for (; sent < 7 && !isDrained; sent++) polite.peer.send({}, block);
  const drained = polite.peer.drained().then(() => {
    isDrained = true;
  });
  await sleep(50);
  expect({ received, isDrained }).toEqual({ received: 0, isDrained: false });
  const greedy = await client(listener.port, limits);
  for (let i = 0; i < 100 && !greedy.peer.isClosed; i++) greedy.peer.send({}, block);
  expect(await greedy.closed).toMatch(/does not read/);
  await expect(greedy.peer.drained()).rejects.toThrow(/does not read/);
  release();
  await drained;
});

test('what was sent before closing arrives', async () => {
  const got: unknown[] = [];
  const over = new Promise<void>((resolve) => {
    void echoing({
      onPeer: (peer) =>
        peer.receive({
          onMessage: async (message) => {
            await sleep(1);
            got.push(message);
          },
          onClose: () => resolve(),
        }),
    }).then(async ({ port }) => {
      const { peer } = await client(port);
      for (let i = 0; i < 20; i++) peer.send(i);
      peer.close();
    });
  });
  await over;
  expect(got).toEqual(Array.from({ length: 20 }, (_, i) => i));
});

test('an interrupted attempt ends at once, and an address that nobody listens on says so', async () => {
  const server = await new Promise<import('node:net').Server>((resolve) => {
    void import('node:net').then(({ createServer }) => {
      const silent = createServer((socket) => void socket.on('error', () => {}));
      silent.listen(0, host, () => resolve(silent));
    });
  });
  closing.push(() => server.close());
  const { port } = server.address() as { port: number };
  const controller = new AbortController();
  setTimeout(() => controller.abort(), 20);
  await expect(connect({ host, port, token, signal: controller.signal })).rejects.toMatchObject({
    code: 'HADAL_ERR_ABORTED',
  });
  await new Promise((resolve) => server.close(resolve));
  await expect(connect({ host, port, token })).rejects.toMatchObject({
    code: 'HADAL_ERR_COMM',
    message: expect.stringContaining(`${host}:${port}`),
  });
});

test('a machine that does not answer is told apart from one that is no process of the run: it may come later', async () => {
  // It takes no connections: when its queue is full, what comes is dropped, as on the way to a machine that is not there.
  const code = `
    const { createServer } = require('node:net');
    const server = createServer().listen({ port: 0, host: '${host}', backlog: 1 }, () => {
      require('node:worker_threads').parentPort.postMessage(server.address().port);
      setImmediate(() => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0));
    });`;
  const worker = new Worker(code, { eval: true });
  closing.push(() => worker.terminate());
  const port = await new Promise<number>((resolve) => worker.once('message', resolve));
  await sleep(50);
  const silent = connect({ host, port, token, handshakeMs: 100 });
  await expect(silent).rejects.toMatchObject({ message: expect.stringContaining('did not prove itself') });
  const fill = Array.from({ length: 8 }, () => openSocket({ host, port }).on('error', () => {}));
  closing.push(() => fill.forEach((socket) => void socket.destroy()));
  await sleep(50);
  const unreached = connect({ host, port, token, handshakeMs: 100 });
  await expect(unreached).rejects.toMatchObject({ code: 'HADAL_ERR_COMM', cause: { code: 'ETIMEDOUT' } });
});
