// The store, and the process that hosts a run: whoever says whatever, the others are served.
import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import { afterEach, expect, test, vi } from 'vitest';
import { Rendezvous } from '../../src/dist/rendezvous.js';
import { KeyValueStore } from '../../src/dist/store.js';
import { StoreClient } from '../../src/dist/store-client.js';
import { connect } from '../../src/dist/transport.js';
import { startRelay } from '../support/relay.js';

const token = 'a secret of sixteen characters or more';
const host = '127.0.0.1';
const closing: (() => unknown)[] = [];

afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

async function rendezvous(size = 2, heartbeatMs = 10_000): Promise<Rendezvous> {
  const opened = await Rendezvous.open({
    ...{ host, port: 0, token, rules: { kind: 'static', size }, timing: { heartbeatMs } },
  });
  closing.push(() => opened[Symbol.asyncDispose]());
  return opened;
}

async function client(port: number, onEvent: (event: unknown) => void = () => {}): Promise<StoreClient> {
  const opened = await StoreClient.connect({ host, port, token, waitMs: 1000, onEvent });
  closing.push(() => opened[Symbol.dispose]());
  return opened;
}

/** What a store should do, without its waiting and limits. */
test('a store holds what it was given', () => {
  const key = fc.constantFrom('a', 'b', 'c');
  const command = fc.oneof(
    fc.tuple(fc.constant('set' as const), key, fc.string()),
    fc.tuple(fc.constant('add' as const), key, fc.integer({ min: -5, max: 5 })),
    fc.tuple(fc.constant('delete' as const), key, fc.constant(null)),
    fc.tuple(fc.constant('clear' as const), key, fc.constant(null)),
  );
  fc.assert(
    fc.property(fc.array(command), (commands) => {
      const store = new KeyValueStore();
      const model = new Map<string, string>();
      for (const [what, name, value] of commands) {
        if (what === 'set') {
          store.set(name, value);
          model.set(name, value);
        } else if (what === 'add') {
          const sum = Number(model.get(name) ?? '0') + value;
          if (Number.isSafeInteger(sum)) {
            expect(store.add(name, value)).toBe(sum);
            model.set(name, String(sum));
          } else expect(() => store.add(name, value)).toThrow(/whole number/);
        } else if (what === 'delete') {
          expect(store.delete([name])).toBe(model.delete(name) ? 1 : 0);
        } else {
          store.clear();
          model.clear();
        }
        expect(store.missing(['a', 'b', 'c'])).toEqual(['a', 'b', 'c'].filter((name) => !model.has(name)));
        let got: string[] | null = null;
        store.get([...model.keys()], (values) => {
          got = values;
        });
        expect(got).toEqual([...model.values()]);
      }
    }),
  );
});

test('a store has limits, and counts what it forgets', () => {
  const store = new KeyValueStore({ keys: 2, characters: 10 });
  store.set('a', '12345678');
  expect(() => store.set('b', '12')).toThrow(/at most 2 keys and 10 characters in the store, got 2 and 12/);
  store.set('a', '1');
  store.set('b', '2');
  expect(() => store.set('c', '')).toThrow(/at most 2 keys/);
  store.delete(['a']);
  store.set('c', '12345');
});

test('values are waited for, by several at once, and those missing are named', async () => {
  const { port } = await rendezvous();
  const [a, b, c] = await Promise.all([client(port), client(port), client(port)]);
  const waiting = [a.get(['x', 'y'], 5000), b.get(['y'], 5000)];
  await c.set('x', '1');
  expect(await c.get(['x', 'y', 'z'], 10)).toEqual({ missing: ['y', 'z'] });
  await c.set('y', '2');
  expect(await Promise.all(waiting)).toEqual([{ values: ['1', '2'] }, { values: ['2'] }]);
  expect(await Promise.all([a.add('n', 2), b.add('n', 3)])).toContain(5);
  expect(await a.delete(['x', 'y', 'q'])).toBe(2);
});

test('requests that make no sense end the connection that they came by, and no other', async () => {
  const { port } = await rendezvous();
  const friend = await client(port);
  const ask = fc.oneof(
    fc.jsonValue(),
    fc.record({ id: fc.jsonValue(), ask: fc.jsonValue() }),
    fc.record({
      id: fc.nat(),
      ask: fc.record({ do: fc.constantFrom('set', 'get', 'join', 'beat'), key: fc.jsonValue() }),
    }),
  );
  await fc.assert(
    fc.asyncProperty(ask, async (message) => {
      const peer = await connect({ host, port, token });
      const closed = new Promise<string>((resolve) => peer.receive({ onMessage: () => {}, onClose: resolve }));
      peer.send(message);
      await closed;
      expect(await friend.add('alive', 0)).toBe(0);
    }),
    { numRuns: 40 },
  );
});

test('requests out of order are answered with what is wrong, and the connection stays', async () => {
  const { port } = await rendezvous();
  const odd = await client(port);
  await expect(odd.request({ do: 'arrive', step: 0, waitMs: null })).rejects.toThrow(/a process that has joined/);
  await expect(odd.request({ do: 'leave' })).rejects.toThrow(/a process that has joined/);
  await expect(odd.request({ do: 'enlist', node: 0, processes: 1, host: 'x' })).rejects.toThrow(/has no launchers/);
  await expect(odd.request({ do: 'join', worker: 'w', host: 'x', place: null })).rejects.toThrow(/has 2 processes/);
  await odd.request({ do: 'ended', worker: 'nobody', status: 0, signal: null });
  await odd.set('n', 'text');
  await expect(odd.add('n', 1)).rejects.toThrow(/whole number in the store's 'n'/);
  const big = 'x'.repeat(700_000);
  await Promise.all([odd.set('big', big), odd.set('bigger', big)]);
  await expect(odd.get(['big', 'bigger'], 100)).rejects.toThrow(/at most 1048576 bytes/);
  expect(await odd.add('alive', 1)).toBe(1);
});

test('a process that is silent is lost, one that is heard is not, and all others are told once', async () => {
  const { port } = await rendezvous(3, 300);
  const events: unknown[][] = [[], [], []];
  const members = await Promise.all([0, 1, 2].map((rank) => client(port, (event) => events[rank]?.push(event))));
  const beats = await Promise.all([0, 1, 2].map(() => client(port)));
  await Promise.all(
    members.map((member, rank) =>
      member.request({
        do: 'join',
        worker: `w${rank}`,
        host: 'x',
        place: { rank, size: 3, localRank: null, localSize: null },
      }),
    ),
  );
  await Promise.all(members.map((member) => member.request({ do: 'arrive', step: -1, waitMs: null })));
  const heard = [0, 1, 2];
  const timer = setInterval(() => {
    for (const rank of heard) void beats[rank]?.request({ do: 'beat', of: `w${rank}` });
  }, 30);
  closing.push(() => clearInterval(timer));
  await sleep(600);
  expect(events).toEqual([[], [], []]);
  heard.splice(1, 1);
  await sleep(700);
  const lost = [{ rank: 1, host: 'x', reason: 'nothing heard of it for 0.3 s' }];
  const over = { event: 'over', round: 0, message: 'rank 1 (x) was lost: nothing heard of it for 0.3 s', lost };
  expect(events[0]).toEqual([over]);
  expect(events[2]).toEqual([over]);
  expect(events[1]).toMatchObject([{ event: 'dismissed' }]);
});

test('a launcher that was silent is hung up on, and what becomes of its connection is nothing to the one it comes back by', async () => {
  const opened = await Rendezvous.open({
    ...{ host, port: 0, token, timing: { heartbeatMs: 300 } },
    rules: { kind: 'elastic', minNodes: 1, maxNodes: 2, minProcesses: null, maxRestarts: 3 },
  });
  closing.push(() => opened[Symbol.asyncDispose]());
  await using relay = await startRelay({ to: { host, port: opened.port } });
  const enlist = { do: 'enlist', node: 1, processes: 1, host: 'x' } as const;
  let hungUp = (_: string): void => {};
  const reason = new Promise<string>((resolve) => {
    hungUp = resolve;
  });
  const silent = await StoreClient.connect({
    ...{ host, port: relay.ports[0] as number, token, waitMs: 1000, onClose: hungUp },
  });
  await silent.request(enlist);
  relay.set({ isCut: true });
  await vi.waitUntil(() => opened.rounds.isEmpty);
  const back = await client(opened.port);
  await back.request(enlist);
  const beating = setInterval(() => void back.request({ do: 'beat', of: 'launcher 1' }), 30);
  closing.push(() => clearInterval(beating));
  relay.set({ isCut: false });
  expect(await reason).toContain('closed');
  await sleep(100);
  await expect((await client(opened.port)).request(enlist)).rejects.toThrow(/host 1 is there already/);
});
