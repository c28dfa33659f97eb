// Runs of several processes; the long forms are `npm run accept -- data-parallel` and `npm run accept -- elastic`.
import { readdirSync, writeFileSync } from 'node:fs';
import { afterAll, describe, expect, it } from 'vitest';
import type { World } from '../../src/dist/world.js';
import type { StepEvent, TrainEvent } from '../../src/train/events.js';
import { localWorlds } from '../support/worlds.js';
import { checkpointsOf, eventsOf, metricsOf, RunFolder, runAll } from './runs.js';
import { distance, runRank, runTogether, weightsOf } from './together.js';

const folder = new RunFolder();
afterAll(() => folder.remove());

const common = { threads: 1, batch: 6, gradAccumulationSteps: 2, steps: 4 } as const;

/** A process that is said to be lost is so at once. */
const fast = { heartbeatMs: 2000 };

/** Compares what updates and evaluations told with another run's. */
function expectSameLosses(events: readonly TrainEvent[], expected: readonly TrainEvent[], relative = 5e-6): void {
  const steps = (of: readonly TrainEvent[]) => eventsOf(of, 'step');
  expect(steps(events).map(({ step, tokens }) => [step, tokens])).toEqual(
    steps(expected).map(({ step, tokens }) => [step, tokens]),
  );
  const near = (a: number | null, b: number | null) =>
    expect(Math.abs((a ?? 0) - (b ?? 0)) / Math.max(1e-9, Math.abs(b ?? 0))).toBeLessThan(relative);
  for (const [i, step] of steps(events).entries()) {
    const other = steps(expected)[i] as StepEvent;
    for (const name of ['loss', 'mtpLoss', 'balanceLoss', 'gradNorm'] as const) near(step[name], other[name]);
    expect(step.expertImbalance).toBe(other.expertImbalance);
  }
  for (const [i, { evalLoss, tokens }] of eventsOf(events, 'evaluation').entries()) {
    const other = eventsOf(expected, 'evaluation')[i];
    near(evalLoss, other?.evalLoss ?? 0);
    expect(tokens).toBe(other?.tokens);
  }
}

describe('a run of several processes', () => {
  it('computes what one alone computes, with as many rows, whether they divide or not', async () => {
    const alone = folder.options(common);
    const expected = await runAll(alone);
    const size = 2; // a row of padding: a micro-batch has three rows
    const options = folder.options(common);
    const told = await runTogether(size, options);
    expect(told.map(({ error }) => error)).toEqual(told.map(() => null));
    for (const { events } of told) {
      expectSameLosses(events, expected);
      expect(events.at(-1)).toMatchObject({ type: 'end', steps: 4 });
    }
    expect(distance(await weightsOf(options.out), await weightsOf(alone.out))).toBeLessThan(1e-5);
    // One of them writes.
    expect(readdirSync(options.out).sort()).toEqual(['checkpoints', 'config.json', 'metrics.jsonl']);
    expect(metricsOf(options.out).map(({ step }) => step)).toEqual(metricsOf(alone.out).map(({ step }) => step));
    const { world } = metricsOf(options.out)[1] as { world: StepEvent['world'] };
    expect(world).toMatchObject({ size, round: 0 });
    expect(world?.wireBytesSent).toBeGreaterThan(38_662 * 4 * (1 - 1 / size));
    expect(world?.commShare).toBeGreaterThan(0);
  });

  it('stops everywhere after the same update when one process is asked to, and goes on from there bit for bit', async () => {
    const options = folder.options({ ...common, steps: 7 });
    const controller = new AbortController();
    await using local = await localWorlds(2);
    const told = await Promise.all(
      local.worlds.map((world) =>
        runRank(world, options, world.rank === 1 ? { signal: controller.signal } : {}, (event) => {
          if (world.rank === 1 && event.type === 'step' && event.step === 3) controller.abort();
        }),
      ),
    );
    const [last] = eventsOf(told[0]?.events ?? [], 'step').slice(-1);
    expect(told.map(({ error }) => error?.code)).toEqual(['HADAL_ERR_ABORTED', 'HADAL_ERR_ABORTED']);
    expect(told.map(({ events }) => eventsOf(events, 'step').at(-1)?.step)).toEqual([last?.step, last?.step]);
    expect(last?.step).toBe(4);
    expect(checkpointsOf(options.out)).toEqual(['step-00000004']);

    const whole = folder.options({ ...common, steps: 7 });
    const [expected] = await runTogether(2, whole);
    const [resumed] = await runTogether(2, { ...options, resume: true });
    expect(eventsOf(resumed?.events ?? [], 'start')[0]?.step).toBe(4);
    expect(expected?.error).toBeNull();
    expect(distance(await weightsOf(options.out), await weightsOf(whole.out))).toBe(0);
  });

  it('ends alike in all processes when a rule asks for it, and says where they do not compute alike', async () => {
    const rules = [{ metric: 'loss', above: 1, everySteps: 2, action: 'stop' }] as const;
    const options = folder.options({ ...common, watch: { rules: [...rules] } });
    const told = await runTogether(2, options, (rank) => ({ options: { threads: 1 + rank } }));
    expect(eventsOf(told[0]?.events ?? [], 'start')[0]?.notes).toEqual([
      expect.stringMatching(/do not compute alike \(1 threads on .* \(rank 0\), 2 threads on .* \(rank 1\)\)/),
    ]);
    expect(told.map(({ error }) => [error?.code, error?.message])).toEqual(
      told.map(() => ['HADAL_ERR_RUN', expect.stringMatching(/step 2: loss .* above 1/)]),
    );
  });

  it('goes back together to a checkpoint when a rule asks for it', async () => {
    const rules = [{ metric: 'memory', above: 0, everySteps: 3, action: 'rollback' }] as const;
    const options = folder.options({
      ...common,
      checkpoint: { every: 2 },
      watch: { rules: [...rules], maxRollbacks: 1 },
    });
    const told = await runTogether(2, options);
    expect(told.map(({ events }) => eventsOf(events, 'rollback').map(({ from, step }) => [from, step]))).toEqual([
      [[3, 2]],
      [[3, 2]],
    ]);
    expect(told.map(({ error }) => error?.message)).toEqual(
      told.map(() => expect.stringMatching(/step 3: .*2 times since step 2/)),
    );
  });

  it('is refused with one clear error where processes disagree, or have no row each', async () => {
    const told = await runTogether(2, folder.options(common), (rank) => ({ options: { seed: rank } }));
    expect(told.map(({ error }) => error?.message)).toEqual(
      told.map(() => expect.stringMatching(/same of all 2 processes, got seed: 0 \(rank 0\), 1 \(rank 1\)/)),
    );
    const few = await runTogether(3, folder.options({ ...common, batch: 4 }));
    expect(few.map(({ error }) => [error?.code, error?.message])).toEqual(
      few.map(() => ['HADAL_ERR_CONFIG', expect.stringMatching(/a row for each of 3 processes, got 2/)]),
    );
  });

  it('leaves the others when it cannot begin', async () => {
    await using local = await localWorlds(2);
    const [a, b] = local.worlds as [World, World];
    const { error } = await runRank(a, { ...folder.options(common), data: { sources: ['/nowhere/at-all.txt'] } });
    expect(error?.code).toBe('HADAL_ERR_IO');
    await expect(b.gather('with one that has left', null)).rejects.toThrow(/rank 0 .*has left/);
  });

  it('does not keep the others waiting for its preparation when one is lost', async () => {
    const text = `${folder.options().out}.txt`;
    writeFileSync(
      text,
      'Of this there is so much that tokenizing it takes far longer than a round waits.\n'.repeat(300_000),
    );
    const options = folder.options({ ...common, data: { sources: [text], cache: `${text}.cache` } });
    await using local = await localWorlds(2, { timing: { nextRoundMs: 4000 } });
    const controller = new AbortController();
    let rounds = 0;
    const [a, b] = local.worlds as [World, World];
    const first = runRank(a, options, { signal: controller.signal }, (event) => {
      if (event.type !== 'prepare') return;
      if (event.phase === 'program' && event.total === 0 && ++rounds === 2) controller.abort();
      if (event.phase !== 'program' && rounds === 1 && !b.signal.aborted) local.lose(1);
    });
    const [told] = await Promise.all([first, runRank(b, options)]);
    expect([rounds, told.error?.code]).toEqual([2, 'HADAL_ERR_ABORTED']);
  });

  it('goes on from memory when processes are lost, rank 0 among them, and others come', async () => {
    const long = { ...common, gradAccumulationSteps: 1, steps: 10, optimizer: { lr: 3e-3, warmupSteps: 2 } };
    const whole = folder.options(long);
    const expected = await runAll(whole);
    const options = folder.options(long);
    await using local = await localWorlds(3, { maxRestarts: 1, minProcesses: 2, timing: fast });
    let last = 0;
    const lose = new Map([
      [3, 0],
      [7, 1],
    ]);
    const onEvent = (event: TrainEvent): void => {
      if (event.type !== 'step') return;
      last = Math.max(last, event.step);
      const rank = lose.get(event.step);
      lose.delete(event.step);
      if (rank !== undefined) local.lose(rank);
    };
    const came = local.replacement().then((world) => runRank(world, options, {}, onEvent));
    const told = await Promise.all([...local.worlds.map((world) => runRank(world, options, {}, onEvent)), came]);
    const ended = told.filter(({ error }) => error === null);
    expect(told.filter(({ error }) => error !== null).map(({ error }) => error?.code)).toEqual([
      'HADAL_ERR_COMM',
      'HADAL_ERR_COMM',
    ]);
    expect(ended).toHaveLength(2);
    const metrics = metricsOf(options.out);
    const rounds = metrics.flatMap(({ step, round }) => (round ? [{ step, ...(round as object) }] : []));
    expect(rounds).toEqual([
      { step: expect.any(Number), round: 1, size: 3, lost: [0], from: 'memory' },
      { step: expect.any(Number), round: 2, size: 2, lost: [1], from: 'memory' },
    ]);
    const steps = metrics.filter(({ loss }) => loss !== undefined);
    expect(steps.map(({ step }) => step)).toEqual(Array.from({ length: 10 }, (_, i) => i + 1));
    for (const [i, { loss, tokens }] of steps.entries()) {
      const other = eventsOf(expected, 'step')[i] as StepEvent;
      expect(tokens).toBe(other.tokens);
      expect(Math.abs((loss as number) - other.loss) / other.loss).toBeLessThan(5e-6);
    }
    expect(distance(await weightsOf(options.out), await weightsOf(whole.out))).toBeLessThan(1e-4);
  });
});
