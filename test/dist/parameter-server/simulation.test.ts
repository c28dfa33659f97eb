import { describe, expect, it } from 'vitest';
import { type SimulationOptions, simulate } from './simulation.js';

/** A thousand workers on a bad network. */
const bad: SimulationOptions = {
  ...{ seed: 1, workers: 1000, servers: 2, staleness: 250, steps: 1000, microBatches: 4, barrierEvery: 250 },
  ...{ loss: 0.05, duplicates: 0.05, stragglers: 0.1, lifeSeconds: 60, rejoin: 0.8, cutEverySeconds: 15 },
};

describe('1,000 simulated workers keep what the protocol promises', () => {
  for (const seed of [1, 2, 3]) {
    it(`on a bad network, seed ${seed}`, () => {
      const { counts, ...result } = simulate({ ...bad, seed });
      expect(result.updates).toBe(1000);
      expect(result.lastLoss).toBeLessThan(0.02 * result.firstLoss);
      expect(counts.accepted).toBe(4000);
      // What was to be survived has happened.
      expect(Math.min(counts.expired, counts.left, counts.late, counts.repeated)).toBeGreaterThan(0);
      expect(result.staleness.length).toBeLessThanOrEqual(251);
    });
  }

  it('where the bound is narrow: most wait', () => {
    const result = simulate({ ...bad, staleness: 2, steps: 60, microBatches: 32, barrierEvery: 30 });
    expect(result.updates).toBe(60);
    expect(result.staleness.length).toBeLessThanOrEqual(3);
  });

  it('with staleness 0: every gradient is computed at the parameters that it updates', () => {
    const result = simulate({ ...bad, staleness: 0, steps: 40, microBatches: 50, barrierEvery: 10 });
    expect(result.staleness).toEqual([2000]);
  });

  it('goes on with the last one alive', () => {
    const result = simulate({
      ...bad,
      workers: 100,
      steps: 150,
      lastOneFromSeconds: 5,
      lifeSeconds: 30,
      barrierEvery: 50,
    });
    expect(result.updates).toBe(150);
    expect(result.seconds).toBeGreaterThan(60);
  });
});

it('deals to a slow worker what a fast one does not wait for', () => {
  const quiet = { loss: 0, duplicates: 0, lifeSeconds: 0, rejoin: 0, cutEverySeconds: 0, barrierEvery: 1000 };
  const common = { ...bad, ...quiet, workers: 4, servers: 1, steps: 400, microBatches: 1, stragglers: 0.3, seed: 4 };
  const [free, bound] = [simulate({ ...common, staleness: 100 }), simulate({ ...common, staleness: 0 })];
  expect(free.counts).toMatchObject({ accepted: 400, stale: 0, late: 0, expired: 0 });
  expect(free.seconds).toBeLessThan(0.5 * bound.seconds);
});
