// Checkpoints while training goes on: what they hold, which are kept, what a full disk does.
import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, it, vi } from 'vitest';
import { verifyManifest } from '../../src/formats/manifest.js';
import { keptCheckpoints } from '../../src/train/checkpoint-list.js';
import type { TrainEvent } from '../../src/train/events.js';
import type { TrainOptions } from '../../src/train/options.js';
import { RunDirectory } from '../../src/train/run-directory.js';
import { train } from '../../src/train/train.js';
import { fill, mount } from '../support/mounted.js';
import { checkpointsOf, eventsOf, metricsOf, RunFolder, runAll, runModel, snapshotOf } from './runs.js';

const folder = new RunFolder();
afterAll(() => folder.remove());

const nameOf = (step: number) => `step-${String(step).padStart(8, '0')}`;

describe('a checkpoint that is saved in the background', () => {
  const lowRank = [{ match: '*.kv_b_proj.weight', rank: 4 }];
  it.each<[string, Partial<TrainOptions>]>([
    ['', { dtype: 'bf16' }],
    [', also of running means', { optimizer: { lr: 1e-2, warmupSteps: 2, emaDecay: 0.9 } }],
    [', also of weights that are products', { model: { config: runModel, lowRank } }],
  ])('holds the very bits of one for which training waits%s', async (_, change) => {
    const common = { steps: 9, evaluation: { every: 2, batches: 1 }, ...change };
    const [behind, waiting] = [true, false].map((background) =>
      folder.options({ ...common, checkpoint: { every: 2, keep: 9, background } }),
    ) as [ReturnType<RunFolder['options']>, ReturnType<RunFolder['options']>];
    const events = await runAll(behind);
    await runAll(waiting);
    expect(checkpointsOf(behind.out)).toEqual([2, 4, 6, 8, 9].map(nameOf));
    for (const name of checkpointsOf(behind.out)) {
      const [a, b] = [behind, waiting].map(({ out }) => Object.values(snapshotOf(join(out, 'checkpoints', name))));
      expect(a, name).toEqual(b);
    }
    expect(eventsOf(events, 'checkpoint').map(({ step }) => step)).toEqual([2, 4, 6, 8, 9]);
    // On a busy machine training may have to wait for the save before.
    const warnings = eventsOf(events, 'warning').filter(({ message }) => !message.startsWith('training waited'));
    expect(warnings).toEqual([]);
    // Training went on meanwhile: the first one was told of after a later step.
    const order = events.filter(({ type }) => type === 'step' || type === 'checkpoint');
    expect(order.findIndex(({ type }) => type === 'checkpoint')).toBeGreaterThan(2);
  });

  it('is written while training waits where memory has no room for a copy, which is said', async () => {
    const [copied, waiting] = [1, 2].map(() => folder.options({ steps: 3, checkpoint: { every: 2, keep: 9 } })) as [
      ReturnType<RunFolder['options']>,
      ReturnType<RunFolder['options']>,
    ];
    await runAll(copied);
    const refusing = new Proxy(ArrayBuffer, {
      construct(target, [bytes, ...options]) {
        if (bytes > 2 ** 18) throw new RangeError('Array buffer allocation failed');
        return Reflect.construct(target, [bytes, ...options]);
      },
    });
    vi.stubGlobal('ArrayBuffer', refusing);
    const events = await runAll(waiting).finally(() => vi.unstubAllGlobals());
    const warnings = eventsOf(events, 'warning').map(({ message }) => message);
    expect(warnings).toEqual(['memory has no room for a copy of the state: training waits until it is saved']);
    for (const name of checkpointsOf(copied.out)) {
      const [a, b] = [copied, waiting].map(({ out }) => Object.values(snapshotOf(join(out, 'checkpoints', name))));
      expect(a, name).toEqual(b);
    }
  });

  it('says in state.json what the loss on held-out text was, where it was measured', async () => {
    const options = folder.options({
      steps: 4,
      evaluation: { every: 2, batches: 1 },
      checkpoint: { every: 1, keep: 9 },
    });
    const losses = new Map(eventsOf(await runAll(options), 'evaluation').map(({ step, evalLoss }) => [step, evalLoss]));
    for (const step of [1, 2, 3, 4]) {
      const path = join(options.out, 'checkpoints', nameOf(step), 'state.json');
      expect(JSON.parse(readFileSync(path, 'utf8'))).toMatchObject({ step, evalLoss: losses.get(step) ?? null });
    }
  });
});

describe('kept', () => {
  const found = [0.5, null, 0.2, 0.4, 0.2, null, 0.1].map((evalLoss, i) => ({
    name: `${9 - i}`,
    step: 9 - i,
    evalLoss,
  }));

  it.each([
    [2, 0, ['9 newest', '8 newest']],
    [1, 1, ['9 newest', '3 best']],
    [1, 3, ['9 newest', '3 best', '7 best', '5 best']],
    [3, 1, ['9 newest', '8 newest', '7 newest', '3 best']],
    [1, 9, ['9 newest', '3 best', '7 best', '5 best', '6 best']],
    [9, 9, ['9', '8', '7', '6', '5', '4', '3'].map((name) => `${name} newest`)],
  ])('are the newest %i and the best %i of the others', (keep, best, expected) => {
    expect([...keptCheckpoints(found, { keep, best })].map((pair) => pair.join(' '))).toEqual(expected);
  });

  it('is the best one of a run, however old', async () => {
    // The rate is so high that the loss rises: the first is the best.
    const options = folder.options({
      steps: 8,
      optimizer: { lr: 0.5, warmupSteps: 0 },
      evaluation: { every: 1, batches: 1 },
      checkpoint: { every: 1, keep: 2, best: 1 },
    });
    const evaluations = eventsOf(await runAll(options), 'evaluation').filter(({ step }) => step > 0 && step < 7);
    const best = evaluations.reduce((least, event) => (event.evalLoss < least.evalLoss ? event : least));
    expect(checkpointsOf(options.out)).toEqual([best.step, 7, 8].map(nameOf));
  });
});

describe('a full disk', () => {
  it('pauses saving; what stands is left, training goes on, and saving with it once there is room', async (context) => {
    using mounted = mount('size=16m');
    if (!mounted) return context.skip('a small file system can be mounted by root alone');
    const out = join(mounted.path, 'run');
    const filler = join(mounted.path, 'filler');
    const options = folder.options({ steps: 40, checkpoint: { every: 2, keep: 1 } });
    const events: TrainEvent[] = [];
    let standing = '';
    for await (const event of train({ ...options, out })) {
      events.push(event);
      if (event.type === 'checkpoint' && standing === '') {
        standing = checkpointsOf(out).find((name) => /^step-\d{8}$/.test(name)) as string;
        fill(filler);
      }
      if (event.type !== 'step' || event.step !== 34) continue;
      // Nothing half written, and the one before as it was.
      const warnings = eventsOf(events, 'warning').map(({ message }) => message);
      expect(warnings).toContainEqual(
        expect.stringMatching(/saving failed, training goes on and tries again.*no space left/),
      );
      expect(warnings).toContainEqual(expect.stringMatching(/metrics\.jsonl is full: its lines are kept/));
      await verifyManifest(join(out, 'checkpoints', standing));
      rmSync(filler);
    }
    const saved = eventsOf(events, 'checkpoint').map(({ step }) => step);
    expect(saved.at(-1)).toBe(40);
    expect(saved.length).toBeLessThan(10);
    const warnings = eventsOf(events, 'warning').map(({ message }) => message);
    expect(warnings).toContain('checkpoints are saved again');
    expect(warnings).toContainEqual(expect.stringMatching(/metrics\.jsonl is written again/));
    expect(checkpointsOf(out)).toEqual([nameOf(40)]);
    await verifyManifest(join(out, 'checkpoints', nameOf(40)));
    // Nothing is missing of the metrics.
    const whole = folder.options({ steps: 40 });
    await runAll(whole);
    expect(metricsOf(out)).toEqual(metricsOf(whole.out));
  });

  it('keeps no lines of steps that a run went back behind', async (context) => {
    using mounted = mount('size=1m');
    if (!mounted) return context.skip('a small file system can be mounted by root alone');
    const filler = join(mounted.path, 'filler');
    using directory = await RunDirectory.open(join(mounted.path, 'run'), { resume: false });
    const log = (step: number, loss: number) => directory.log({ step, loss, text: 'x'.repeat(4096) });
    log(1, 9);
    fill(filler);
    for (const [step, loss] of [
      [2, 8],
      [3, 7],
      [4, 6],
    ] as const)
      log(step, loss);
    await directory.truncateMetrics(({ step }) => step <= 2);
    rmSync(filler);
    log(3, 5);
    expect(metricsOf(directory.path).map(({ step, loss }) => [step, loss])).toEqual([
      [1, 9],
      [2, 8],
      [3, 5],
    ]);
  });
});
