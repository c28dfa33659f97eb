// Worlds of one process, for tests: real connections to a real rendezvous, but neither a launcher nor processes of their own.
import { Rendezvous } from '../../src/dist/rendezvous.js';
import type { Timing } from '../../src/dist/rendezvous-rounds.js';
import { joinWorld, type World } from '../../src/dist/world.js';

const token = 'the secret of worlds that are none';
const host = '127.0.0.1';

export interface LocalWorlds extends AsyncDisposable {
  /** Of the first round, by rank. */
  readonly worlds: readonly World[];
  /** As if the process of this rank had been killed. Its own World is over, too. */
  lose(rank: number): void;
  /** The next World that was started in place of a lost one; it is in a round when the others are in it, too. */
  replacement(): Promise<World>;
}

export interface LocalWorldsOptions {
  /** Worlds started in place of lost ones. */
  maxRestarts?: number;
  /** The fewest to go on with when those are used up. */
  minProcesses?: number;
  timing?: Partial<Timing>;
}

/** Worlds that know each other, in round 0. Each is to be left by `nextRound` or disposed; the last ones by this one's dispose. */
export async function localWorlds(
  n: number,
  { maxRestarts = 0, minProcesses = 1, timing = {} }: LocalWorldsOptions = {},
): Promise<LocalWorlds> {
  let ranks: Record<string, number> = {};
  const started: Promise<World>[] = [];
  const waiting: ((world: Promise<World>) => void)[] = [];
  const rendezvous = await Rendezvous.open({
    ...{ host, port: 0, token, timing },
    rules: { kind: 'elastic', minNodes: 1, maxNodes: 1, minProcesses, maxRestarts },
  });
  const { rounds } = rendezvous;
  const join = async (worker: string): Promise<World> => {
    const place = { kind: 'launched' as const, worker, host, port: rendezvous.port };
    const world = (await joinWorld({ place, token, hasThread: false })) as World;
    return world;
  };
  const beat = setInterval(() => rounds.beat('launcher 0'), 100);
  const ids = rounds.enlist(0, n, 'here', {
    start: (worker) => {
      const world = join(worker);
      world.catch(() => {}); // told to who asks for it
      const next = waiting.shift();
      if (next) next(world);
      else started.push(world);
    },
    kill: (worker) => rounds.ended(worker, null, 'SIGKILL'),
    dealt: (_, dealt) => {
      ranks = dealt;
    },
    dismissed: () => {},
    end: () => {},
  }) as string[];
  const worlds = await Promise.all(ids.map(join));
  return {
    worlds: worlds.sort((a, b) => a.rank - b.rank),
    lose: (rank) => {
      const worker = Object.keys(ranks).find((id) => ranks[id] === rank);
      if (worker === undefined) throw new Error(`there is no rank ${rank}`);
      rounds.lose(worker, 'the test killed it');
    },
    replacement: () => started.shift() ?? new Promise<World>((resolve) => waiting.push(resolve)),
    [Symbol.asyncDispose]: async () => {
      clearInterval(beat);
      await rendezvous[Symbol.asyncDispose]();
    },
  };
}
