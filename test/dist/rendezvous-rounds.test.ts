// Rounds, without a network and in virtual time: whatever is lost whenever, the others agree on what follows.
import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { Deal } from '../../src/dist/rendezvous-messages.js';
import { defaultTiming, Rounds } from '../../src/dist/rendezvous-rounds.js';

interface Process {
  id: string;
  node: number;
  /** Does what it is told; one that is stopped does nothing, but is there. */
  isStopped: boolean;
  isGone: boolean;
  deal: Deal | null;
  /** Updates that it holds the state after. */
  step: number;
  isDismissed: boolean;
}

/** Hosts and processes that do as real ones do, one thing after the other. */
class Simulation {
  now = 0;
  readonly log: string[] = [];
  readonly processes = new Map<string, Process>();
  readonly nodes = new Set<number>();
  readonly rounds: Rounds;
  end: { status: number; message: string } | null = null;
  /** Deals of the newest round. */
  deals: { process: Process; deal: Deal }[] = [];
  #round = -1;
  readonly #queue: (() => void)[] = [];

  constructor(
    readonly perNode: number,
    rules: { minNodes: number; maxNodes: number; minProcesses: number | null; maxRestarts: number },
  ) {
    this.rounds = new Rounds(
      { kind: 'elastic', ...rules },
      defaultTiming,
      0,
      (line) => this.log.push(line),
      () => {
        this.#round++;
        this.deals = [];
      },
      (status, message) => {
        this.end = { status, message };
      },
    );
  }

  host(node: number): void {
    const started = this.rounds.enlist(node, this.perNode, `box${node}`, {
      start: (id) => this.#later(() => this.#start(id, node)),
      kill: (id) => this.#later(() => this.kill(id)),
      dealt: () => {},
      dismissed: () => {},
      end: () => {},
    });
    if (typeof started === 'string') return;
    this.nodes.add(node);
    for (const id of started) this.#later(() => this.#start(id, node));
  }

  /** The host is gone with all of its processes. */
  loseHost(node: number): void {
    if (!this.nodes.delete(node)) return;
    for (const process of this.processes.values()) if (process.node === node) process.isGone = true;
    this.rounds.loseLauncher(node, 'the connection was closed');
  }

  kill(id: string): void {
    this.#end(id, null, 'SIGKILL');
  }

  exit(id: string, status: number): void {
    if ((status === 0 || status === 130) && !this.processes.get(id)?.isStopped) this.rounds.leave(id);
    this.#end(id, status, null);
  }

  /** A collective failed here, and nobody knows why. */
  complain(id: string): void {
    const process = this.processes.get(id);
    if (process?.deal && !process.isGone && !process.isStopped) this.#arrive(process);
  }

  /** Everything that was to happen at once. */
  settle(): void {
    for (let next = this.#queue.shift(); next; next = this.#queue.shift()) next();
  }

  pass(seconds: number): void {
    for (let i = 0; i < seconds; i++) {
      this.now += 1000;
      for (const { id, isGone, isStopped } of this.processes.values()) if (!isGone && !isStopped) this.rounds.beat(id);
      for (const node of this.nodes) this.rounds.beat(`launcher ${node}`);
      // Those in a round go on.
      for (const process of this.processes.values()) if (process.deal && !process.isStopped) process.step++;
      this.rounds.tick(this.now);
      this.settle();
    }
  }

  alive(): Process[] {
    return [...this.processes.values()].filter(({ isGone }) => !isGone);
  }

  #later(work: () => void): void {
    this.#queue.push(work);
  }

  #start(id: string, node: number): void {
    if (!this.nodes.has(node)) return;
    const process: Process = { id, node, isStopped: false, isGone: false, deal: null, step: -1, isDismissed: false };
    this.processes.set(id, process);
    const refusal = this.rounds.join(id, `box${node}`, null, {
      dealt: (deal) => {
        expect(process.deal, 'no deal before the last round is over').toBeNull();
        expect(deal.round).toBe(this.#round);
        process.deal = deal;
        process.step = Math.max(process.step, 0);
        this.deals.push({ process, deal });
      },
      over: (round) => {
        expect(process.deal?.round).toBe(round);
        this.#later(() => this.#arrive(process));
      },
      dismissed: () => {
        process.isDismissed = true;
        this.#later(() => !process.isStopped && this.exit(id, 1));
      },
    });
    if (refusal !== null) this.exit(id, 1);
    else this.#arrive(process);
  }

  #arrive(process: Process): void {
    if (process.isGone || process.isStopped || process.isDismissed) return;
    process.deal = null;
    this.rounds.arrive(process.id, process.step, null);
  }

  #end(id: string, status: number | null, signal: string | null): void {
    const process = this.processes.get(id);
    if (!process || process.isGone) return;
    process.isGone = true;
    process.deal = null;
    this.rounds.hangUp(id, 'the connection was closed');
    if (this.nodes.has(process.node)) this.#later(() => this.rounds.ended(id, status, signal));
  }
}

/** The newest round is one that all in it agree on. */
function expectAgreement({ deals, perNode }: Simulation): void {
  const members = deals.map(({ deal }) => deal);
  expect(members.map(({ rank }) => rank).sort((a, b) => a - b)).toEqual(members.map((_, rank) => rank));
  for (const { process, deal } of deals) {
    expect(deal.size).toBe(deals.length);
    const there = deals.filter((other) => other.process.node === process.node);
    const first = Math.min(...there.map((other) => other.deal.rank));
    // Ranks of a host follow each other.
    expect([deal.localRank, deal.localSize]).toEqual([deal.rank - first, there.length]);
    expect(there.length).toBeLessThanOrEqual(perNode);
    expect(deal.hosts[deal.rank]).toBe(`box${process.node}`);
  }
}

type Event = [kind: 'kill' | 'stop' | 'fail' | 'complain' | 'loseHost' | 'host' | 'pass', which: number];

const event = fc.tuple(
  fc.constantFrom<Event[0]>('kill', 'stop', 'fail', 'complain', 'loseHost', 'host', 'pass', 'pass'),
  fc.nat({ max: 20 }),
);

function happen(simulation: Simulation, [kind, which]: Event): void {
  const alive = simulation.alive();
  const process = alive[which % Math.max(1, alive.length)];
  if (kind === 'kill' && process) simulation.kill(process.id);
  if (kind === 'stop' && process) process.isStopped = true;
  if (kind === 'fail' && process) simulation.exit(process.id, 1);
  if (kind === 'complain' && process) simulation.complain(process.id);
  if (kind === 'loseHost') simulation.loseHost(which % 4);
  if (kind === 'host') simulation.host(which % 4);
  if (kind === 'pass') simulation.pass(which);
}

test('whatever happens, rounds are agreed on, and in the end all that is alive trains or the run is over', () => {
  fc.assert(
    fc.property(
      fc.record({ perNode: fc.integer({ min: 1, max: 3 }), minNodes: fc.integer({ min: 1, max: 2 }) }),
      fc.integer({ min: 0, max: 6 }),
      fc.option(fc.integer({ min: 1, max: 4 })),
      fc.array(event, { maxLength: 25 }),
      ({ perNode, minNodes }, maxRestarts, minProcesses, events) => {
        const simulation = new Simulation(perNode, { minNodes, maxNodes: 4, minProcesses, maxRestarts });
        for (let node = 0; node < minNodes; node++) simulation.host(node);
        simulation.settle();
        for (const one of events) {
          const held = simulation.alive().filter(({ isStopped }) => !isStopped);
          const newest = Math.max(-1, ...held.map(({ step }) => step));
          const before = simulation.deals;
          happen(simulation, one);
          if (one[0] !== 'pass') simulation.settle();
          if (simulation.deals !== before && simulation.deals.length > 0 && one[0] === 'complain') {
            // Nobody was lost: the one with the newest state is the first.
            const first = simulation.deals.find(({ deal }) => deal.rank === 0);
            expect(first?.process.step).toBeGreaterThanOrEqual(Math.max(0, newest));
          }
          if (simulation.deals.length > 0) expectAgreement(simulation);
        }
        // From here on, nothing else goes wrong.
        simulation.pass(60);
        const restarts = simulation.log.filter((line) => /of \d+ restarts\)/.test(line)).length;
        expect(restarts).toBeLessThanOrEqual(maxRestarts);
        if (simulation.end) return;
        const alive = simulation.alive();
        expect(alive.filter(({ isStopped }) => isStopped)).toEqual([]);
        const isTraining = alive.length > 0 && alive.every(({ deal }) => deal?.size === alive.length);
        if (isTraining) return;
        expect(simulation.nodes.size >= minNodes && alive.length >= (minProcesses ?? 1)).toBe(false);
        simulation.pass(300);
        expect(simulation.end).toMatchObject({ status: 1 });
      },
    ),
    { numRuns: 400 },
  );
});

test('a run whose processes end well ends well, in whatever order they do', () => {
  fc.assert(
    fc.property(fc.shuffledSubarray([0, 1, 2, 3], { minLength: 4 }), fc.boolean(), (order, isInterrupted) => {
      const simulation = new Simulation(2, { minNodes: 2, maxNodes: 2, minProcesses: null, maxRestarts: 3 });
      simulation.host(0);
      simulation.host(1);
      simulation.settle();
      const ids = [...simulation.processes.keys()];
      for (const i of order) {
        expect(simulation.end).toBeNull();
        simulation.exit(ids[i] as string, isInterrupted && i === 0 ? 130 : 0);
        simulation.settle();
      }
      expect(simulation.end?.status).toBe(isInterrupted ? 130 : 0);
    }),
  );
});

test('one that is lost when another has ended well ends the run alone', () => {
  const simulation = new Simulation(2, { minNodes: 1, maxNodes: 1, minProcesses: null, maxRestarts: 1 });
  simulation.host(0);
  simulation.settle();
  const [first, second] = [...simulation.processes.keys()] as [string, string];
  simulation.exit(first, 0);
  simulation.kill(second);
  simulation.settle();
  const [alone] = simulation.deals;
  expect(alone?.deal).toMatchObject({ rank: 0, size: 1, round: 1 });
  simulation.exit(alone?.process.id as string, 0);
  simulation.settle();
  expect(simulation.end).toMatchObject({ status: 0 });
});

test('a round that keeps failing without a loss ends the run', () => {
  const simulation = new Simulation(2, { minNodes: 1, maxNodes: 1, minProcesses: 1, maxRestarts: 2 });
  simulation.host(0);
  simulation.settle();
  const [first] = [...simulation.processes.keys()] as [string];
  for (let i = 0; i < 3; i++) {
    expect(simulation.end).toBeNull();
    simulation.complain(first);
    simulation.settle();
  }
  expect(simulation.end).toMatchObject({ status: 1, message: expect.stringContaining('a collective failed there') });
});
