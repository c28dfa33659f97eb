import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { describe, expect, it } from 'vitest';
import { canMakeNetworks, type Host, hostPorts, makeNetwork } from './network.js';
import { startRelay } from './relay.js';

const wait = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** Gives back what it gets. */
async function echo(): Promise<{ port: number } & AsyncDisposable> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    socket.pipe(socket);
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  return {
    port,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/** Milliseconds until `bytes` are back. */
async function there(socket: Socket, bytes: number): Promise<number> {
  const began = performance.now();
  socket.write(Buffer.alloc(bytes, 7));
  let left = bytes;
  while (left > 0) left -= ((await once(socket, 'data')) as [Buffer])[0].length;
  return performance.now() - began;
}

describe('a relay', () => {
  it('delays, limits, loses and cuts as it is told', async () => {
    await using server = await echo();
    await using relay = await startRelay({ to: { host: '127.0.0.1', port: server.port } });
    const socket = connect(relay.ports[0] as number, '127.0.0.1');
    await once(socket, 'connect');
    await there(socket, 1);
    relay.set({ delayMs: 30 });
    const delayed = await there(socket, 10_000);
    expect(delayed).toBeGreaterThan(59);
    relay.set({ delayMs: 0, mbit: 80 });
    const limited = await there(socket, 1_000_000); // 100 ms each way, at the same time but for a chunk
    expect(limited).toBeGreaterThan(99);
    relay.set({ mbit: null, loss: 1, stallMs: 50 });
    expect(await there(socket, 65_536)).toBeGreaterThan(99);
    relay.set({ loss: 0, isCut: true });
    let isBack = false;
    const back = there(socket, 100).then(() => {
      isBack = true;
    });
    await wait(100);
    expect(isBack).toBe(false);
    relay.set({ isCut: false });
    await back;
    const reset = once(socket, 'error');
    relay.reset();
    await expect(reset).resolves.toMatchObject([{ code: 'ECONNRESET' }]);
  });

  it('passes ends of streams on', async () => {
    await using server = await echo();
    await using relay = await startRelay({ to: { host: '127.0.0.1', port: server.port }, delayMs: 5 });
    const socket = connect({ port: relay.ports[0] as number, host: '127.0.0.1', allowHalfOpen: true });
    const chunks: Buffer[] = [];
    socket.on('data', (chunk: Buffer) => chunks.push(chunk));
    socket.end(Buffer.alloc(300_000, 3));
    await once(socket, 'end');
    expect(Buffer.concat(chunks).equals(Buffer.alloc(300_000, 3))).toBe(true);
  });
});

// What a host runs: takes `bytes` at a port and answers with one byte; or sends them and prints the milliseconds.
const taker = `
  const [address, port, bytes] = process.argv.slice(1);
  require('node:net').createServer((socket) => {
    let left = +bytes;
    socket.on('data', (data) => { left -= data.length; if (left === 0) { socket.end('x'); process.exitCode = 0; } });
    socket.on('close', () => process.exit());
  }).listen(+port, address, () => console.log('listening'));`;
const sender = `
  const [address, port, bytes] = process.argv.slice(1);
  const began = performance.now();
  const socket = require('node:net').connect(+port, address, () => {
    console.error('connected');
    socket.write(Buffer.alloc(+bytes));
  });
  socket.on('data', () => { console.log(performance.now() - began); process.exit(); });`;

async function transfer(from: Host, to: Host, bytes: number, whenConnected?: () => void): Promise<number> {
  const args = [to.address, String(hostPorts.first), String(bytes)];
  const server = to.spawn(process.execPath, ['-e', taker, ...args], { stdio: ['ignore', 'pipe', 'inherit'] });
  if (server.stdout) await once(server.stdout, 'data');
  const client = from.spawn(process.execPath, ['-e', sender, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
  client.stderr?.once('data', () => whenConnected?.());
  const [output] = (await once(client.stdout as NonNullable<typeof client.stdout>, 'data')) as [Buffer];
  await once(server, 'exit');
  return Number(output.toString());
}

const can = canMakeNetworks();

describe.skipIf(!can)('hosts in network namespaces (skipped where only root may make them)', () => {
  it('have cables of a rate, which can be cut and mended, and are gone afterwards', async () => {
    let names: string[] = [];
    {
      await using network = await makeNetwork({ hosts: 2, mbit: 100 });
      const [a, b] = network.hosts as [Host, Host];
      names = [a.name, b.name];
      const ms = await transfer(a, b, 2_500_000);
      expect(ms).toBeGreaterThan(180);
      expect(ms).toBeLessThan(1000);
      const cutAt: number[] = [];
      const cutMs = await transfer(b, a, 2_500_000, () => {
        network.cut(0);
        cutAt.push(performance.now());
        setTimeout(() => network.mend(0), 600);
      });
      expect(cutAt).toHaveLength(1);
      expect(cutMs).toBeGreaterThan(600);
    }
    const left = execFileSync('ip', ['netns', 'list'], { encoding: 'utf8' });
    for (const name of names) expect(left).not.toContain(name);
  });

  it('are far from each other behind a relay', async () => {
    await using network = await makeNetwork({ hosts: 2, relay: { delayMs: 40 } });
    const [a, b] = network.hosts as [Host, Host];
    expect(await transfer(a, b, 1000)).toBeGreaterThan(79);
    await network.set({ delayMs: 0 });
    expect(await transfer(b, a, 1000)).toBeLessThan(79);
  });
});
