// What a group over Gloo does when ranks die, hang, leave or never were there; processes of their own over 127.0.0.1.
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { connect } from 'node:net';
import { fileURLToPath } from 'node:url';
import { afterEach, describe, expect, it } from 'vitest';
import { openProcessGroup } from '../../src/dist/process-group.js';
import { addressExchange, joinedDevices } from '../support/joined-devices.js';

interface Told {
  address?: number[];
  isSumming?: boolean;
  code?: string;
  message?: string;
}

const children: ChildProcess[] = [];
afterEach(() => {
  for (const child of children.splice(0)) child.kill('SIGKILL');
});

/** Processes that sum without end (the last `idle` of them once only); resolves when all of them do. */
async function summing(
  size: number,
  { timeout = 20, idle = 0 } = {},
): Promise<{ child: ChildProcess; ended: Promise<Told> }[]> {
  const file = fileURLToPath(new URL('comm-child.mjs', import.meta.url));
  const ranks = Array.from({ length: size }, (_, rank) => {
    const sums = rank < size - idle ? 1e9 : 1;
    const child = fork(file, [rank, size, timeout, sums].map(String), { execArgv: [] });
    children.push(child);
    const when = (holds: (told: Told) => boolean) =>
      new Promise<Told>((resolve) => child.on('message', (told: Told) => holds(told) && resolve(told)));
    return {
      ...{ child, address: when(({ address }) => address !== undefined) },
      ...{ begun: when(({ isSumming }) => isSumming === true), ended: when(({ code }) => code !== undefined) },
    };
  });
  const addresses = (await Promise.all(ranks.map(({ address }) => address))).map(({ address }) => address);
  for (const { child } of ranks) child.send(addresses as never);
  await Promise.all(ranks.map(({ begun }) => begun));
  return ranks;
}

describe('processes over Gloo', () => {
  it('fail within moments when one is killed, and name it', async () => {
    const [first, second, third] = await summing(3);
    const begin = performance.now();
    second?.child.kill('SIGKILL');
    for (const rank of [first, third]) {
      expect(await rank?.ended).toMatchObject({
        code: 'HADAL_ERR_COMM',
        message: expect.stringMatching(/^\[comm\] rank 1 is gone: its process ended or the connection to it broke/),
      });
    }
    expect(performance.now() - begin).toBeLessThan(5000);
  });

  it('fail when their time is over because one hangs, and name it', async () => {
    const [first, second, third] = await summing(3, { timeout: 0.5 });
    second?.child.kill('SIGSTOP');
    for (const rank of [first, third]) {
      expect(await rank?.ended).toMatchObject({
        code: 'HADAL_ERR_COMM',
        message: expect.stringMatching(/expected all to take part within 500 ms; rank 1 does not answer/),
      });
    }
  });

  it.each([
    ['process.exit', (child: ChildProcess) => child.send({ exit: 7 }), 7, null],
    ['SIGTERM', (child: ChildProcess) => child.kill('SIGTERM'), null, 'SIGTERM'],
  ] as const)('end by %s while they wait for others, without a crash', async (_, end, code, signal) => {
    const [waiting, idle] = await summing(2, { idle: 1 });
    const exited = once(waiting?.child as ChildProcess, 'exit');
    end(waiting?.child as ChildProcess);
    expect(await exited).toEqual([code, signal]);
    expect(idle?.child.exitCode).toBeNull();
  });
});

describe('a group over Gloo', () => {
  const open = (rank: number, size: number, exchange: ReturnType<typeof addressExchange>, timeout = 5) =>
    openProcessGroup({ backend: 'gloo', rank, size, timeout, exchange: (address) => exchange(rank, address) });

  it('joins in spite of strangers who come to its ports, silent or with garbage', async () => {
    const exchange = addressExchange(2);
    const sockets: ReturnType<typeof connect>[] = [];
    const besieged = async (rank: number, address: Uint8Array) => {
      const port = new DataView(address.buffer, address.byteOffset).getUint16(34);
      for (const garbage of ['', 'GET / HTTP/1.1\r\n\r\n', '\0'.repeat(1000), 'x'.repeat(100_000)]) {
        const socket = connect(port, '127.0.0.1').on('error', () => {});
        sockets.push(socket);
        await once(socket, 'connect');
        if (garbage) socket.write(garbage);
      }
      return exchange(rank, address);
    };
    const groups = await Promise.all([open(0, 2, besieged), open(1, 2, besieged)]);
    for (const group of groups) group.dispose();
    for (const socket of sockets) socket.destroy();
  });

  it('does not take ranks that do not know the others’ secrets', async () => {
    const exchange = addressExchange(2);
    const wrong = async (rank: number, address: Uint8Array) => {
      const addresses = await exchange(rank, address);
      return addresses.map((bytes) => bytes.map((byte, i) => (i === 3 ? byte ^ 1 : byte)));
    };
    const results = await Promise.allSettled([open(0, 2, exchange, 0.5), open(1, 2, wrong, 0.5)]);
    for (const [rank, result] of results.entries()) {
      expect(result).toMatchObject({
        status: 'rejected',
        reason: {
          code: 'HADAL_ERR_COMM',
          message: expect.stringContaining(`expected to connect with rank ${1 - rank}`),
        },
      });
    }
  });

  it('refuses addresses and hosts that are none', async () => {
    const given = (addresses: Uint8Array[]) =>
      openProcessGroup({ backend: 'gloo', rank: 1, size: 2, timeout: 0.5, exchange: async () => addresses });
    await expect(given([new Uint8Array(3), new Uint8Array(3)])).rejects.toMatchObject({ code: 'HADAL_ERR_COMM' });
    const elsewhere = { backend: 'gloo', rank: 0, size: 2, timeout: 0.5, host: '192.0.2.1' } as const;
    await expect(openProcessGroup({ ...elsewhere, exchange: async () => [] })).rejects.toMatchObject({
      code: 'HADAL_ERR_COMM',
      message: expect.stringMatching(/expected an address of this machine to listen on, got '192\.0\.2\.1'/),
    });
  });

  it('may be given to a device after it was aborted, not after it was disposed of', async () => {
    using joined = await joinedDevices(2, { backend: 'gloo' });
    for (const group of joined.groups) group.abort('the test is over');
    expect(() => joined.devices[0]?.setGroup('tp', joined.groups[0] ?? null)).not.toThrow();
    joined.groups[0]?.dispose();
    expect(() => joined.devices[0]?.setGroup('tp', joined.groups[0] ?? null)).toThrow(/disposed/);
  });
});
