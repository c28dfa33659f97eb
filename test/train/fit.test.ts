import { afterAll, describe, expect, it } from 'vitest';
import { modelFromConfig } from '../../src/models/families.js';
import { Candidates } from '../../src/train/candidates.js';
import { resolveTrainConfig, type TrainConfig } from '../../src/train/config.js';
import { fitting, memoryBudget, mostThatFits } from '../../src/train/fit.js';
import type { TrainOptions } from '../../src/train/options.js';
import { Planner } from '../../src/train/planning.js';
import { roomOf } from '../../src/train/room.js';
import type { SizedConfig } from '../../src/train/step-config.js';
import { expectHadalError, testDevice } from '../support/op-case.js';
import { tinyConfig } from './tiny.js';

const mib = 2 ** 20;

describe('the budget', () => {
  const room = (resident: number) => ({ available: 16 * 2 ** 30, resident, processes: 1 });

  it('is what was asked for, in bytes or with a unit', () => {
    expect(memoryBudget(12 * 2 ** 30, room(mib))).toBe(12 * 2 ** 30);
    expect(memoryBudget('12GiB', room(mib))).toBe(12 * 2 ** 30);
    expect(memoryBudget('8GB', room(mib))).toBe(8e9);
  });

  it('is never more than what is free and what the process has', () => {
    expect(memoryBudget('1TiB', room(100 * mib))).toBe(16 * 2 ** 30 + 100 * mib);
  });

  it('leaves an eighth of what is free to others, where it is the machine’s choice', () => {
    expect(memoryBudget('auto', room(0))).toBe(14 * 2 ** 30);
    expect(memoryBudget('auto', roomOf(testDevice(), 1))).toBeGreaterThan(64 * mib);
  });

  it('is refused when it is no size', () => {
    expectHadalError(() => memoryBudget('lots', room(0)), 'HADAL_ERR_CONFIG', /'memory.budget' expected.*got 'lots'/);
  });
});

describe('the most rows that fit', () => {
  it.each([
    ['a line', (rows: number) => 1000 + 37 * rows],
    ['steps', (rows: number) => 1000 + 640 * Math.ceil(rows / 16)],
    ['a curve', (rows: number) => 500 + rows ** 1.5],
    ['less than one', (rows: number) => 1e6 * rows],
    ['what cannot be counted from some size on', (rows: number) => (rows > 700 ? Number.POSITIVE_INFINITY : rows)],
  ])('are found on %s, in few tries', async (_, bytes) => {
    let tries = 0;
    const most = await mostThatFits(async (rows) => {
      tries++;
      return bytes(rows);
    }, 20_000);
    expect(bytes(most)).toBeLessThanOrEqual(20_000);
    expect(bytes(most + 1)).toBeGreaterThan(20_000);
    expect(tries).toBeLessThan(25);
  });
});

describe('a run', () => {
  const planner = new Planner(modelFromConfig({ ...tinyConfig, num_hidden_layers: 4 }), 1);
  afterAll(() => planner[Symbol.asyncDispose]());

  const config = (options: Partial<TrainOptions> = {}): TrainConfig =>
    resolveTrainConfig({
      model: { config: tinyConfig },
      data: { sources: ['synthetic'] },
      out: 'run',
      steps: 100,
      batch: 16,
      seqLen: 64,
      memory: { lossChunkRows: 64 }, // left open in a test of its own
      ...options,
    });
  const within = (budget: number) => new Candidates(planner, 'fp32', 0, budget);
  const anything = within(Number.POSITIVE_INFINITY);
  const needOf = async (options: Partial<TrainOptions>) =>
    (await anything.of(config(options) as SizedConfig)).memory.total;

  it('that fits is left as it is', async () => {
    const open = { gradAccumulationSteps: 'auto', activationCheckpointing: 'auto' } as const;
    const found = await fitting(config(open), within(await needOf({})));
    expect(found.config).toMatchObject({ batch: 16, gradAccumulationSteps: 1, activationCheckpointing: 'none' });
    expect(found).toMatchObject({ accumulates: false, withinBytes: undefined });
  });

  it('takes the fewest smaller micro-batches that fit', async () => {
    const [two, four] = [await needOf({ gradAccumulationSteps: 2 }), await needOf({ gradAccumulationSteps: 4 })];
    const open = config({ gradAccumulationSteps: 'auto' });
    expect(four).toBeLessThan(two);
    expect((await fitting(open, within(two))).config).toMatchObject({ batch: 16, gradAccumulationSteps: 2 });
    expect((await fitting(open, within(two - 1))).config).toMatchObject({ batch: 16, gradAccumulationSteps: 4 });
  });

  it('begins a ramp of rows with one micro-batch or more', async () => {
    const open = config({ gradAccumulationSteps: 'auto', batchRamp: { from: 4, steps: 10 } });
    expect((await fitting(open, anything)).config).toMatchObject({ batch: 16, gradAccumulationSteps: 4 });
  });

  it.each([1, 2])('recomputes no more than the budget asks for, with %i micro-batches', async (parts) => {
    const common = { gradAccumulationSteps: parts };
    const [all, least] = [await needOf(common), await needOf({ ...common, activationCheckpointing: { every: 1 } })];
    const budget = (all + least) / 2;
    const found = await fitting(config({ ...common, activationCheckpointing: 'auto' }), within(budget));
    expect(found.config.activationCheckpointing).toBe('auto');
    expect(found.memory.total).toBeLessThanOrEqual(budget);
    expect(found.memory.activations).toBeLessThanOrEqual(found.withinBytes as number);
    expect(found.memory.total).toBeGreaterThan(least);
  });

  it('of checkpointing and smaller micro-batches takes the quicker', async () => {
    const open = { gradAccumulationSteps: 'auto', activationCheckpointing: 'auto' } as const;
    const budget = await needOf({ gradAccumulationSteps: 2 });
    const found = await fitting(config(open), within(budget));
    const [smaller, again] = [
      await fitting(config({ gradAccumulationSteps: 'auto' }), within(budget)),
      await fitting(config({ activationCheckpointing: 'auto' }), within(budget)),
    ];
    expect(found.seconds).toBe(Math.min(smaller.seconds, again.seconds));
    expect(found.memory.total).toBeLessThanOrEqual(budget);
  });

  it('waits for its checkpoints where a copy of them has no room', async () => {
    const checkpoint = { every: 10, background: true };
    const whole = await needOf({ checkpoint });
    expect((await fitting(config({ checkpoint }), within(whole))).config.checkpoint.background).toBe(true);
    expect((await fitting(config({ checkpoint }), within(whole - 1))).config.checkpoint.background).toBe(false);
  });

  it('computes fewer logits at a time where only that has room', async () => {
    const wide = { ...tinyConfig, vocab_size: 8192 };
    await using wordy = new Planner(modelFromConfig(wide), 1);
    const given = config({ model: { config: wide }, memory: {} }) as SizedConfig;
    const { memory } = await new Candidates(wordy, 'fp32', 0, Number.POSITIVE_INFINITY).of(given);
    const most = (bytes: number) => fitting(given, new Candidates(wordy, 'fp32', 0, bytes));
    expect((await most(memory.total)).config.memory.lossChunkRows).toBe('auto');
    const found = await most(memory.total - 2 * mib);
    expect(found.config.memory.lossChunkRows).toBe(32);
    expect(found.memory.total).toBeLessThanOrEqual(memory.total - 2 * mib);
    const own = config({ model: { config: wide }, memory: { lossChunkRows: 512 } });
    await expect(fitting(own, new Candidates(wordy, 'fp32', 0, memory.total - 2 * mib))).rejects.toThrow(
      /expected a run.*lossChunkRows 32/,
    );
  });

  it('with batch auto takes 80 % of the largest micro-batch', async () => {
    const budget = await needOf({ batch: 20 });
    const found = await fitting(config({ batch: 'auto' }), within(budget));
    expect(found.config).toMatchObject({ batch: 16, gradAccumulationSteps: 1 });
    const two = await needOf({ batch: 40, gradAccumulationSteps: 2 });
    const parts = await fitting(config({ batch: 'auto', gradAccumulationSteps: 2 }), within(two));
    expect(parts.config).toMatchObject({ batch: 32, gradAccumulationSteps: 2 });
  });

  it('that cannot fit is refused with three ways to make it fit, each of which does', async () => {
    const budget = (await needOf({ gradAccumulationSteps: 2 })) + 1000;
    const error = await fitting(config(), within(budget)).catch((error: unknown) => error as Error);
    const message = (error as Error).message;
    expect(error).toMatchObject({ code: 'HADAL_ERR_MEMORY' });
    expect(message).toMatch(
      /^\[train\] expected a run within [\d.]+ MiB of memory, this one needs [\d.]+ MiB \(weights/,
    );
    const ways = message.slice(message.indexOf('take ') + 5).split(', or ');
    expect(ways).toHaveLength(3);
    for (const way of ways) expect(way).toMatch(/^[\w. ]+( \(micro-batch \d+\))? \([\d.]+ MiB, [\d.]+ × the time\)$/);
    const parts = Number(/gradAccumulationSteps (\d+)/.exec(message)?.[1]);
    expect(await needOf({ gradAccumulationSteps: parts })).toBeLessThanOrEqual(budget);
    expect(await needOf({ gradAccumulationSteps: 1 })).toBeGreaterThan(budget);
  });

  it('is told changes that help together, where none helps alone', async () => {
    const tight = { gradAccumulationSteps: 16, activationCheckpointing: 'sqrt', seqLen: 16 } as const;
    const error = await fitting(config(), within(await needOf(tight))).catch((error: unknown) => error as Error);
    expect((error as Error).message).toMatch(/take .* and .* and seqLen \d+ \(/);
  });

  it('that no change makes fit is told so', async () => {
    const error = await fitting(config(), within(1000)).catch((error: unknown) => error as Error);
    expect((error as Error).message).toMatch(/take a smaller model, or a machine with more memory$/);
  });
});
