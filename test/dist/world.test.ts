// Worlds: of processes that another launcher started, and rounds as those of one process see them.
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { afterEach, expect, test } from 'vitest';
import type { StaticPlace } from '../../src/dist/environment.js';
import { Rendezvous } from '../../src/dist/rendezvous.js';
import { type JoinOptions, joinWorld, type World } from '../../src/dist/world.js';
import { openDevice } from '../../src/runtime/device.js';
import { freePort } from '../support/free-port.js';
import { startRelay } from '../support/relay.js';
import { localWorlds } from '../support/worlds.js';

const token = 'a secret of sixteen characters or more';
const closing: (() => unknown)[] = [];

afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

/** Joins as torchrun or mpirun would have it, rank 0 hosting the run. */
async function staticWorlds(size: number, options: JoinOptions = {}): Promise<World[]> {
  const port = await freePort();
  const join = async (rank: number): Promise<World> => {
    const place: StaticPlace = {
      ...{ kind: 'static', launcher: 'a test', rank, size, localRank: null, localSize: null },
      ...{ host: '127.0.0.1', port },
    };
    return (await joinWorld({ place, token, hasThread: false, timeout: 20, ...options })) as World;
  };
  const worlds = await Promise.all(Array.from({ length: size }, (_, rank) => join(rank)));
  closing.push(() => Promise.all(worlds.map((world) => world[Symbol.asyncDispose]())));
  return worlds;
}

const aborted = (world: World): Promise<Error> =>
  new Promise((resolve) => {
    if (world.signal.aborted) resolve(world.signal.reason as Error);
    else world.signal.addEventListener('abort', () => resolve(world.signal.reason as Error), { once: true });
  });

test('a process of its own has no world', async () => {
  expect(await joinWorld({ place: null })).toBeNull();
});

test('processes of a fixed number find and hear each other', async () => {
  const worlds = await staticWorlds(3);
  expect(
    worlds.map(({ rank, size, localRank, localSize, round }) => [rank, size, localRank, localSize, round]),
  ).toEqual([
    [0, 3, 0, 3, 0],
    [1, 3, 1, 3, 0],
    [2, 3, 2, 3, 0],
  ]);
  for (const name of ['first', 'second']) {
    const all = await Promise.all(worlds.map((world) => world.gather(name, { name, rank: world.rank, nothing: null })));
    for (const given of all) expect(given).toEqual([0, 1, 2].map((rank) => ({ name, rank, nothing: null })));
  }
  await expect(Promise.all(worlds.map((world) => world.gather(`of rank ${world.rank}`, 0)))).rejects.toThrow(
    /expected all ranks to gather 'of rank \d', got 'of rank \d' of rank \d/,
  );
  await expect((worlds[1] as World).nextRound(3)).rejects.toMatchObject({
    code: 'HADAL_ERR_COMM',
    message: expect.stringContaining('hadal launch'),
  });
});

test('programs that are given as text join, and host, a world', async () => {
  const program = `
    import { joinWorld } from ${JSON.stringify(new URL('../../dist/dist/world.js', import.meta.url).href)};
    const world = await joinWorld();
    console.log(await world.gather('ranks', world.rank));
    await world[Symbol.asyncDispose]();`;
  const MASTER_PORT = `${await freePort()}`;
  const run = async (rank: number): Promise<string> => {
    const variables = { RANK: `${rank}`, WORLD_SIZE: '2', MASTER_ADDR: '127.0.0.1', MASTER_PORT, HADAL_TOKEN: token };
    const options = { env: { ...process.env, ...variables }, timeout: 20_000 };
    return (await promisify(execFile)(process.execPath, ['--input-type=module', '--eval', program], options)).stdout;
  };
  expect(await Promise.all([run(0), run(1)])).toEqual(['[ 0, 1 ]\n', '[ 0, 1 ]\n']);
});

test('what is gathered with one that leaves fails, naming it', async () => {
  const [a, b] = (await staticWorlds(2)) as [World, World];
  const early = a.gather('with both', 1);
  await b.gather('with both', 2);
  const late = a.gather('with one', 3);
  await b[Symbol.asyncDispose]();
  expect(await early).toEqual([1, 2]);
  await expect(late).rejects.toThrow(/rank 1 \(.*\) has left/);
  expect(a.signal.aborted).toBe(false);
});

test('ranks that do not come are named', async () => {
  const port = await freePort();
  const place = (rank: number): StaticPlace => ({
    ...{ kind: 'static', launcher: 'a test', rank, size: 4, localRank: null, localSize: null },
    ...{ host: '127.0.0.1', port },
  });
  const options = { token, hasThread: false, timeout: 0.5 };
  const tries = [0, 2].map((rank) => joinWorld({ ...options, place: place(rank) }));
  for (const outcome of await Promise.allSettled(tries)) {
    expect(outcome).toMatchObject({
      status: 'rejected',
      reason: { message: expect.stringMatching(/missing: rank 1, 3/) },
    });
  }
});

test('the same rank twice, and another number of processes, are refused', async () => {
  const port = await freePort();
  const place = (rank: number, size: number): StaticPlace => ({
    ...{ kind: 'static', launcher: 'a test', rank, size, localRank: null, localSize: null },
    ...{ host: '127.0.0.1', port },
  });
  const join = (rank: number, size: number) =>
    joinWorld({ token, hasThread: false, timeout: 20, place: place(rank, size) });
  const tries = [join(0, 3), join(1, 3), join(1, 3)];
  await expect(Promise.race(tries)).rejects.toThrow(/rank 1 is there already/);
  await expect(join(1, 2)).rejects.toThrow(/this run has 3 processes, not 2/);
  const outcomes = await Promise.allSettled([...tries, join(2, 3)]);
  const worlds = outcomes.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value as World] : []));
  expect(worlds.map(({ rank }) => rank)).toEqual([0, 1, 2]);
  await Promise.all(worlds.map((world) => world[Symbol.asyncDispose]()));
});

test('a lost process ends the round of all others, who are told which one it was', async () => {
  await using local = await localWorlds(3);
  const [a, b, c] = local.worlds as [World, World, World];
  const gathering = expect(a.gather('never', 0)).rejects.toThrow(/rank 1/);
  local.lose(1);
  for (const world of [a, c]) {
    expect(await aborted(world)).toMatchObject({
      code: 'HADAL_ERR_COMM',
      message: expect.stringMatching(/rank 1 \(.*\) was lost: the test killed it/),
    });
  }
  await gathering;
  expect((await aborted(b)).message).toContain('given this process up');
  await expect(b.nextRound(7)).rejects.toThrow(/given this process up/);
  const next = await Promise.all([a.nextRound(4), c.nextRound(5)]);
  // The one with the newest state is the first.
  expect(next.map(({ rank, size, localRank, localSize, round }) => [rank, size, localRank, localSize, round])).toEqual([
    [1, 2, 1, 2, 1],
    [0, 2, 0, 2, 1],
  ]);
  expect(await Promise.all(next.map((world) => world.gather('again', world.rank)))).toEqual([
    [0, 1],
    [0, 1],
  ]);
});

test('one started in place of a lost one holds no state and is never the first', async () => {
  await using local = await localWorlds(2, { maxRestarts: 1 });
  const [, b] = local.worlds as [World, World];
  local.lose(0);
  await aborted(b);
  const [next, fresh] = await Promise.all([b.nextRound(12), local.replacement()]);
  expect([next.rank, fresh.rank, next.size, fresh.round]).toEqual([0, 1, 2, 1]);
  // Restarts are used up: one goes on alone.
  local.lose(1);
  const alone = await next.nextRound(13);
  expect([alone.rank, alone.size, alone.round]).toEqual([0, 1, 2]);
  expect(await alone.gather('alone', 'x')).toEqual(['x']);
});

test('a world gives devices their group, and takes it away with the round', async () => {
  const worlds = await staticWorlds(2);
  const devices = worlds.map(() => openDevice('cpu', { threads: 1 }));
  closing.push(() => devices.forEach((device) => void device.dispose()));
  await Promise.all(worlds.map((world, i) => world.connect(devices[i] as never, { backend: 'gloo', timeout: 10 })));
  await Promise.all(worlds.map((world) => world[Symbol.asyncDispose]()));
});

test('who waits for a group hears of the end of the round', async () => {
  await using local = await localWorlds(2);
  const [a] = local.worlds as [World, World];
  using device = openDevice('cpu', { threads: 1 });
  const connecting = a.connect(device, { backend: 'gloo', timeout: 100 });
  setTimeout(() => local.lose(1), 100);
  await expect(connecting).rejects.toThrow(/rank 1 .* was lost/);
});

/** A launcher's rendezvous for processes that are none, and what joins it. */
async function hosted(size: number, dealt: (ranks: Record<string, number>) => void = () => {}) {
  const rules = { kind: 'elastic', minNodes: 1, maxNodes: 1, minProcesses: 1, maxRestarts: 0 } as const;
  const rendezvous = await Rendezvous.open({ host: '127.0.0.1', port: 0, token, rules, timing: { heartbeatMs: 300 } });
  const { rounds } = rendezvous;
  const beat = setInterval(() => rounds.beat('launcher 0'), 50);
  closing.push(async () => {
    clearInterval(beat);
    await rendezvous[Symbol.asyncDispose]();
  });
  const link = {
    ...{ start: () => {}, end: () => {}, dismissed: () => {} },
    kill: (worker: string) => rounds.ended(worker, null, 'SIGKILL'),
  };
  const ids = rounds.enlist(0, size, 'here', { ...link, dealt: (_, ranks) => dealt(ranks) }) as string[];
  const join = (worker: string, port = rendezvous.port) =>
    joinWorld({ place: { kind: 'launched', worker, host: '127.0.0.1', port }, token, hasThread: false });
  return { rendezvous, ids, join };
}

test('a round that is over as soon as it is dealt is over', async () => {
  const { rendezvous, ids, join } = await hosted(2, (ranks) => {
    const second = Object.keys(ranks).find((id) => ranks[id] === 1) as string;
    queueMicrotask(() => rendezvous.rounds.lose(second, 'it came to nothing'));
  });
  const worlds = (await Promise.all(ids.map((id) => join(id)))) as World[];
  closing.push(() => Promise.all(worlds.map((world) => world[Symbol.asyncDispose]())));
  const first = worlds.find(({ rank }) => rank === 0) as World;
  expect((await aborted(first)).message).toContain('it came to nothing');
});

test('nobody waits for a host of the run that is silent, neither to begin nor to leave', async () => {
  const { rendezvous, ids, join } = await hosted(2);
  await using relay = await startRelay({ to: { host: '127.0.0.1', port: rendezvous.port } });
  const [id = '', other = ''] = ids;
  const alone = join(id, relay.ports[0]);
  const waits = expect(alone).rejects.toThrow(/nothing heard of it for 0.3 s/);
  await new Promise((resolve) => setTimeout(resolve, 200));
  relay.set({ isCut: true });
  await waits;
  relay.set({ isCut: false });

  const world = (await join(other, relay.ports[0])) as World;
  relay.set({ isCut: true });
  await world[Symbol.asyncDispose]();
});
