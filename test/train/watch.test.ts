// Runs that are watched: measures, rules and what they do, rollback from a planted spike, a planted NaN.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Batch } from '../../src/data/batch.js';
import type { TrainEvent } from '../../src/train/events.js';
import type { TrainOptions } from '../../src/train/options.js';
import type { UpdateResult } from '../../src/train/stepper.js';
import { type TrainHooks, train } from '../../src/train/train.js';
import { Watcher } from '../../src/train/watch.js';
import { watchSchema } from '../../src/train/watch-schema.js';
import { Rng } from '../support/rng.js';
import { checkpointsOf, eventsOf, lastContentsOf, metricsOf, RunFolder, runAll, runUntil } from './runs.js';

const folder = new RunFolder();
afterAll(() => folder.remove());

/** A run's events up to its end, and how it ended. */
async function ran(options: TrainOptions, hooks: TrainHooks = {}) {
  const events: TrainEvent[] = [];
  try {
    for await (const event of train(options, hooks)) events.push(event);
    return { events, error: null };
  } catch (error) {
    return { events, error };
  }
}

const result = (fields: Partial<UpdateResult> = {}): UpdateResult => ({
  ...{ loss: 4, mtpLoss: null, balanceLoss: null, gradNorm: 1, clippedNorm: 1, skipped: false, overflowed: false },
  ...{
    lossScale: null,
    expertImbalance: null,
    activations: null,
    communicationMs: 0,
    exposedMs: 0,
    compressionMs: 0,
    times: [],
    tokens: 0,
    stops: false,
    compressionError: null,
    ...fields,
  },
});

describe('a watcher', () => {
  const watcher = (rules: object[]) => new Watcher(watchSchema.parse({ rules }));

  it('measures the variance of the losses, and how far a loss lies above those before', () => {
    const watched = watcher([{ metric: 'lossSpike', above: 3, action: 'warn' }]);
    const losses = Array.from({ length: 80 }, (_, i) => 4 + (i % 2 === 0 ? 0.1 : -0.1));
    const variances = losses.map((loss, i) => watched.afterStep(i + 1, result({ loss })).metrics.lossVariance);
    expect(variances[0]).toBeNull();
    expect(variances[1]).toBeCloseTo(0.02, 10);
    expect(variances[79]).toBeCloseTo((64 / 63) * 0.01, 10);
    expect(watched.afterStep(81, result({ loss: 4.2 })).findings).toEqual([]);
    const [spike] = watched.afterStep(82, result({ loss: 4.5 })).findings;
    expect(spike).toMatchObject({ metric: 'lossSpike', action: 'warn' });
    // Mean 4.00625 of the last 16; the last 64 differ by 0.2 each from the next, but for one by 0.3.
    expect(spike?.value).toBeCloseTo((4.5 - 4.00625) / Math.sqrt((62 * 0.04 + 0.09) / 63 / 2), 6);
  });

  it('tells no spike of few losses, and takes a loss that is not finite for one', () => {
    const watched = watcher([{ metric: 'lossSpike', above: 3, action: 'warn' }]);
    for (let step = 1; step <= 15; step++) expect(watched.afterStep(step, result()).findings).toEqual([]);
    expect(watched.afterStep(16, result({ loss: 9 })).findings).toEqual([]);
    expect(watched.afterStep(17, result({ loss: Number.NaN })).findings).toHaveLength(1);
    expect(watched.state.losses).toHaveLength(16);
  });

  it('counts steps that are skipped in a row, and leaves a gradient that overflowed to them', () => {
    const watched = watcher([
      { metric: 'skippedSteps', above: 2, action: 'stop' },
      { metric: 'gradNorm', above: 10, action: 'warn' },
    ]);
    const bad = result({ skipped: true, overflowed: true, gradNorm: Number.POSITIVE_INFINITY });
    const found = [bad, bad, result(), bad, bad, bad].map((each, i) => watched.afterStep(i + 1, each).findings);
    expect(found.map((findings) => findings.length)).toEqual([0, 0, 0, 0, 0, 1]);
    expect(found[5]?.[0]).toMatchObject({ metric: 'skippedSteps', value: 3, action: 'stop' });
  });

  it('names the layer of the widest range and of the most zeros', () => {
    const watched = watcher([
      { metric: 'activationRange', above: 15, action: 'warn' },
      { metric: 'zerosShare', above: 0.5, action: 'warn' },
    ]);
    const layer = (where: string, smallest: number, zeros: number, notFinite = 0) =>
      ({ where, smallest, greatest: 2, zeros, notFinite, count: 100 }) as const;
    const activations = [layer('a', -1, 60), layer('b', -20, 3)];
    const { metrics, findings } = watched.afterStep(1, result({ activations }));
    expect(metrics).toMatchObject({ activationRange: 20, zerosShare: 0.6 });
    expect(findings).toMatchObject([
      { where: 'b', value: 20 },
      { where: 'a', value: 0.6 },
    ]);
    const broken = watched.afterStep(2, result({ activations: [layer('a', -1, 0, 1)] }));
    expect(broken.metrics.activationRange).toBe(Number.POSITIVE_INFINITY);
  });

  it('going back keeps a learning rate that was lowered', () => {
    const watched = watcher([{ metric: 'loss', above: 5, action: 'lowerLr', factor: 0.25 }]);
    const before = watched.state;
    watched.afterStep(1, result({ loss: 6 }));
    expect(watched.state).toMatchObject({ lrFactor: 0.25, losses: [6] });
    watched.rollBack(before);
    expect(watched.state).toEqual({ ...before, lrFactor: 0.25 });
  });
});

describe('a run', () => {
  it('measures activations every so many steps, the same bits as without', async () => {
    const watched = folder.options({ steps: 5, watch: { activationsEvery: 2 } });
    const { events } = await ran(watched);
    const steps = eventsOf(events, 'step');
    expect(steps.map(({ activationRange }) => activationRange !== null)).toEqual([false, true, false, true, false]);
    for (const { activationRange, zerosShare } of [steps[1], steps[3]] as typeof steps) {
      expect(activationRange).toBeGreaterThan(0.1);
      expect(zerosShare).toBeLessThan(0.2);
    }
    expect(metricsOf(watched.out).find(({ step }) => step === 2)).toMatchObject({
      activationRange: steps[1]?.activationRange,
      lossVariance: steps[1]?.lossVariance,
    });
    const plain = folder.options({ steps: 5, watch: { activationsEvery: 0 } });
    await runAll(plain);
    expect(lastContentsOf(plain.out)['model.safetensors']).toBe(lastContentsOf(watched.out)['model.safetensors']);
  });

  it('warns', async () => {
    const rules = [{ metric: 'loss', above: 0.1, action: 'warn' }] as const;
    const { events } = await ran(folder.options({ steps: 3, watch: { rules: [...rules] } }));
    const [step] = eventsOf(events, 'step');
    expect(eventsOf(events, 'warning')).toEqual([
      {
        type: 'warning',
        step: 1,
        message: expect.stringMatching(/^loss \d\.\d+ is above 0\.1$/),
        finding: { metric: 'loss', value: step?.loss, bound: 'above', limit: 0.1, action: 'warn', factor: 0.5 },
      },
    ]);
    const types = events.map(({ type }) => type);
    expect(types.indexOf('warning')).toBe(types.indexOf('step') + 1);
  });

  it('leaves out updates of a norm above a limit, which is decided within the program', async () => {
    const rules = [{ metric: 'gradNorm', above: 1e-6, action: 'skip' }] as const;
    const options = folder.options({ steps: 2, watch: { rules: [...rules] } });
    const { events } = await ran(options);
    expect(eventsOf(events, 'step')).toMatchObject([
      { skipped: true, overflowed: false },
      { skipped: true, overflowed: false },
    ]);
    const [before, after] = eventsOf(events, 'evaluation');
    expect(after?.evalLoss).toBe(before?.evalLoss);
    expect(eventsOf(events, 'end')[0]?.skippedSteps).toBe(2);
    expect(eventsOf(events, 'warning')[0]?.message).toContain('the update is left out');
  });

  it('lowers the learning rate, which a run that is resumed keeps', async () => {
    const rules = [{ metric: 'loss', above: 0.1, action: 'lowerLr', factor: 0.25 }] as const;
    const options = folder.options({ steps: 4, checkpoint: { every: 3 }, watch: { rules: [...rules] } });
    const { events } = await ran(options);
    const plain = eventsOf((await ran(folder.options({ steps: 4 }))).events, 'step').map(({ lr }) => lr);
    const lowered = eventsOf(events, 'step').map(({ lr }) => lr);
    expect(lowered).toEqual(plain.map((lr, i) => (i === 0 ? lr : lr / 4)));
    const more = await ran({ ...options, steps: 6, resume: true, watch: { rules: [] } });
    const [resumed] = eventsOf(more.events, 'step');
    const straight = eventsOf((await ran(folder.options({ steps: 6 }))).events, 'step');
    expect(resumed?.step).toBe(5);
    expect(resumed?.lr).toBeCloseTo((straight[4]?.lr as number) / 4, 12);
  });

  it.each([
    ['conditions that hold', [{ metric: 'loss', above: 0.1, action: 'lowerLr' }]],
    [
      'steps skipped in a row',
      [
        { metric: 'gradNorm', above: 1e-6, action: 'skip' },
        { metric: 'skippedSteps', above: 4, action: 'lowerLr' },
      ],
    ],
  ] as const)('that is resumed knows of %s', async (_, rules) => {
    const change = { steps: 8, checkpoint: { every: 3 }, watch: { rules: [...rules] } };
    const [whole, cut] = [folder.options(change), folder.options(change)];
    const straight = eventsOf((await ran(whole)).events, 'step').map(({ lr }) => lr);
    await runUntil(cut, (event) => event.type === 'step' && event.step === 5);
    const resumed = eventsOf((await ran({ ...cut, resume: true })).events, 'step').map(({ lr }) => lr);
    expect(resumed).toEqual(straight.slice(3));
  });

  it('stops, saved, with an error that says why', async () => {
    const rules = [{ metric: 'loss', above: 0.1, everySteps: 2, action: 'stop' }] as const;
    const options = folder.options({ steps: 50, watch: { rules: [...rules] } });
    const { events, error } = await ran(options);
    expect(error).toMatchObject({
      code: 'HADAL_ERR_RUN',
      exitStatus: 1,
      message: expect.stringMatching(
        /^\[watch\] step 2: loss \S+ is above 0\.1; the run ends; .*step-00000002 is saved, --resume goes on from it$/,
      ),
    });
    expect(events.at(-1)).toMatchObject({ type: 'checkpoint', step: 2 });
    expect(checkpointsOf(options.out)).toEqual(['step-00000002']);
  });
});

/** Batches whose first token of the stream lies within a range have random tokens and labels. */
function garbage(from: number, to: number) {
  const rng = new Rng('garbage');
  const spoil = (batch: Batch): Batch => {
    const next = batch.cursor?.token ?? 0;
    if (next <= from || next > to) return batch;
    const random = (array: Int32Array) => array.map((x) => (x < 0 ? x : rng.integer(280)));
    return { ...batch, tokens: random(batch.tokens), labels: random(batch.labels) };
  };
  return { alterWindow: (window: readonly Batch[]) => window.map(spoil) };
}

describe('a planted spike', () => {
  const tokens = 2 * 24;
  const rules = [{ metric: 'lossSpike', above: 4, action: 'rollback' } as const];
  const options = (change: Partial<TrainOptions> = {}) =>
    folder.options({ steps: 48, checkpoint: { every: 8, keep: 2 }, watch: { rules }, ...change });
  // The window of update 30 is garbage.
  const spike = garbage(29 * tokens, 30 * tokens);
  const [clean, rolled] = [options(), options()];
  let events: TrainEvent[];
  let cleanLoss: number;
  beforeAll(async () => {
    cleanLoss = eventsOf((await ran(clean)).events, 'end')[0]?.evalLoss as number;
    events = (await ran(rolled, spike)).events;
  }, 120_000);

  it('is rolled back, and the run ends as well as a clean one', () => {
    expect(eventsOf(events, 'rollback')).toEqual([{ type: 'rollback', from: 30, step: 24 }]);
    expect(eventsOf(events, 'warning')[0]).toMatchObject({ step: 30, finding: { metric: 'lossSpike' } });
    const [end] = eventsOf(events, 'end');
    expect(end?.steps).toBe(48);
    expect(Math.abs((end?.evalLoss as number) - cleanLoss) / cleanLoss).toBeLessThan(0.01);
  });

  it('leaves metrics of the steps that count, and a line that says so', () => {
    const lines = metricsOf(rolled.out);
    expect(
      lines.filter((line) => line.evalLoss === undefined && !('rollback' in line)).map(({ step }) => step),
    ).toEqual(Array.from({ length: 48 }, (_, i) => i + 1));
    const at = lines.findIndex((line) => 'rollback' in line);
    expect(lines[at]).toMatchObject({
      step: 24,
      rollback: { from: 30, metric: 'lossSpike', value: expect.any(Number) },
    });
    expect([lines[at - 1]?.step, lines[at + 1]?.step]).toEqual([24, 25]);
  });

  it('is passed over: the data read before it went back stays behind', () => {
    const state = JSON.parse(readFileSync(join(rolled.out, 'checkpoints/step-00000048/state.json'), 'utf8'));
    expect(state.cursor.token).toBe((48 + 6) * tokens);
    expect(state).toMatchObject({ step: 48, tokens: 48 * tokens });
  });

  it('goes back to the beginning where there is no checkpoint: to weights, moments and counters as they were', async () => {
    const { alterWindow } = garbage(19 * tokens, 20 * tokens);
    const windows: (readonly Batch[])[] = [];
    const kept = (window: readonly Batch[]) => {
      windows.push(alterWindow(window));
      return windows.at(-1) as readonly Batch[];
    };
    const { events } = await ran(options({ steps: 24, checkpoint: { every: 0 } }), { alterWindow: kept });
    expect(eventsOf(events, 'rollback')).toEqual([{ type: 'rollback', from: 20, step: 0 }]);
    const steps = eventsOf(events, 'step');
    expect(steps.map(({ step }) => step)).toEqual([
      ...Array.from({ length: 20 }, (_, i) => i + 1),
      ...Array.from({ length: 24 }, (_, i) => i + 1),
    ]);
    expect(eventsOf(events, 'end')[0]?.steps).toBe(24);
    const replayed = { alterWindow: () => windows[20 + count++] as readonly Batch[] };
    let count = 0;
    const anew = eventsOf((await ran(options({ steps: 24, checkpoint: { every: 0 } }), replayed)).events, 'step');
    expect(steps.slice(20).map(({ loss }) => loss)).toEqual(anew.map(({ loss }) => loss));
  });

  it('lowers the learning rate for good, where a rule says so', async () => {
    const both = [...rules, { metric: 'lossSpike', above: 4, action: 'lowerLr' } as const];
    const optimizer = { lr: 1e-2, warmupSteps: 0, schedule: { shape: 'constant' } } as const;
    const changed = options({ steps: 32, watch: { rules: both }, optimizer });
    const { events } = await ran(changed, spike);
    expect(eventsOf(events, 'rollback')).toEqual([{ type: 'rollback', from: 30, step: 24 }]);
    expect(eventsOf(events, 'step').map(({ lr }) => lr)).toEqual([
      ...Array.from({ length: 30 }, () => 1e-2),
      ...Array.from({ length: 8 }, () => 5e-3),
    ]);
  });

  it('ends the run after too many in a row', async () => {
    const endless = garbage(20 * tokens, Number.POSITIVE_INFINITY);
    const { events, error } = await ran(options({ watch: { rules, maxRollbacks: 2 } }), endless);
    expect(eventsOf(events, 'rollback').map(({ step }) => step)).toEqual([16, 16]);
    expect(error).toMatchObject({
      code: 'HADAL_ERR_RUN',
      message: expect.stringMatching(
        /back to the last checkpoint, 3 times since step 16, expected at most 2 \(watch\.maxRollbacks\)/,
      ),
    });
  });
});

describe('a planted NaN', () => {
  /** A model directory of which one weight has a NaN. */
  async function broken(tensor: string): Promise<string> {
    const whole = folder.options({ steps: 1 });
    await runAll(whole);
    const directory = join(whole.out, 'checkpoints/step-00000001');
    const file = join(directory, 'model.safetensors');
    const bytes = readFileSync(file);
    const headerBytes = Number(bytes.readBigUInt64LE(0));
    const header = JSON.parse(bytes.toString('utf8', 8, 8 + headerBytes)) as Record<string, { data_offsets: number[] }>;
    bytes.writeFloatLE(Number.NaN, 8 + headerBytes + (header[tensor]?.data_offsets[0] as number));
    writeFileSync(file, bytes);
    return directory;
  }

  it('is named, with a report in the run directory', async () => {
    const directory = await broken('model.layers.1.mlp.shared_experts.up_proj.weight');
    const options = folder.options({ model: { directory }, steps: 3, dtype: 'fp32', watch: { debugNumerics: true } });
    const { events, error } = await ran(options);
    const path = join(options.out, 'numerics-00000001.json');
    expect(error).toMatchObject({
      code: 'HADAL_ERR_NUMERICS',
      exitStatus: 1,
      message: expect.stringContaining(
        "step 1: 'model.layers.1.mlp.shared_experts.gate_up_proj.weight' holds 1 of 576",
      ),
    });
    expect((error as Error).message).toContain(path);
    expect(eventsOf(events, 'step')).toEqual([]);
    const report = JSON.parse(readFileSync(path, 'utf8'));
    expect(report).toMatchObject({
      step: 1,
      lastFiniteStep: null,
      microBatch: 0,
      first: { outputs: [{ shape: [24, 24], dtype: 'fp32', notFinite: 1 }] },
    });
  });

  it('is skipped, step by step, by a run that is not debugged', async () => {
    const directory = await broken('model.norm.weight');
    const { events, error } = await ran(folder.options({ model: { directory }, steps: 2 }));
    expect(error).toBeNull();
    expect(eventsOf(events, 'step').map(({ skipped }) => skipped)).toEqual([true, true]);
  });
});
