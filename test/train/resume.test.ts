import { appendFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { writeManifest } from '../../src/formats/manifest.js';
import { openTensorDirectory } from '../../src/formats/safetensors.js';
import { readFloats } from '../../src/session/model-directory.js';
import type { TrainOptions } from '../../src/train/options.js';
import { train } from '../../src/train/train.js';
import { checkpointsOf, eventsOf, lastContentsOf, metricsOf, RunFolder, runAll, runUntil } from './runs.js';

const folder = new RunFolder();
afterAll(() => folder.remove());

const every = { evaluation: { every: 2, batches: 2 }, checkpoint: { every: 2, keep: 9 } };

/** Runs, is left after `step` as a killed process leaves it (nothing saved since the last checkpoint), and goes on. */
async function interrupted(options: TrainOptions, steps: readonly number[]) {
  for (const last of steps) {
    await runUntil({ ...options, resume: true }, (event) => event.type === 'step' && event.step === last);
  }
  return runAll({ ...options, resume: true });
}

describe('a resumed run equals one that was not interrupted', () => {
  const accumulating = { batch: 4, gradAccumulationSteps: 2 };
  const changes: Record<string, Partial<TrainOptions>> = {
    'with experts and a prediction module': { dtype: 'fp32' },
    'in bf16': { dtype: 'bf16' },
    'in bf16 with gradient accumulation': { dtype: 'bf16', ...accumulating },
    'with gradient accumulation': accumulating,
    'beyond an epoch': { batch: 24, seqLen: 64, data: { sources: [] } },
  };
  for (const [name, change] of Object.entries(changes)) {
    it(name, async () => {
      const common = { steps: 7, ...every, ...change };
      if (change.data) common.data = { sources: [shortText()], cache: join(folder.path, 'short'), heldOut: 0.2 };
      const whole = folder.options(common);
      const parts = folder.options(common);
      await runAll(whole);
      // A step after a checkpoint, and right before one.
      const events = await interrupted(parts, [3, 6]);
      expect(eventsOf(events, 'start')[0]).toMatchObject({ step: 4, notes: [] });
      expect(checkpointsOf(parts.out)).toEqual(checkpointsOf(whole.out));
      // Weights, router bias, moments, update count, cursor, and the manifest over them.
      expect(lastContentsOf(parts.out)).toEqual(lastContentsOf(whole.out));
      expect(metricsOf(parts.out)).toEqual(metricsOf(whole.out));
      const { cursor } = JSON.parse(readFileSync(join(parts.out, 'checkpoints/step-00000007/state.json'), 'utf8'));
      if (change.data) expect(cursor.epoch).toBeGreaterThan(2);
    });
  }

  it('after an interruption that saved, too', async () => {
    const common = { steps: 5, ...every };
    const whole = folder.options(common);
    const parts = folder.options(common);
    await runAll(whole);
    const controller = new AbortController();
    const run = (async () => {
      for await (const event of train(parts, { signal: controller.signal })) {
        if (event.type === 'step' && event.step === 3) controller.abort();
      }
    })();
    await expect(run).rejects.toMatchObject({ code: 'HADAL_ERR_ABORTED' });
    await runAll({ ...parts, resume: true });
    expect(lastContentsOf(parts.out)).toEqual(lastContentsOf(whole.out));
    expect(metricsOf(parts.out)).toEqual(metricsOf(whole.out));
  });

  it('has moved the router bias and counted the updates', async () => {
    const options = folder.options({ steps: 3 });
    await runAll(options);
    const last = join(options.out, 'checkpoints/step-00000003');
    const bias = await floatsOf(last, 'model', 'model.layers.1.mlp.gate.e_score_correction_bias');
    // Three moves of γ = 0.001 each way.
    for (const x of bias) expect([-3, -2, -1, 0, 1, 2, 3].map((n) => n / 1000)).toContainEqual(expect.closeTo(x, 6));
    expect(bias.some((x) => x !== 0)).toBe(true);
    expect([...(await floatsOf(last, 'optimizer', 'state/updates'))]).toEqual([3]);
  });
});

describe('resume', () => {
  let finished: TrainOptions;
  beforeAll(async () => {
    finished = folder.options({ ...every, steps: 4 });
    await runAll(finished);
  });

  it('starts where there is nothing', async () => {
    const options = folder.options({ steps: 1, resume: true });
    const events = await runAll(options);
    expect(eventsOf(events, 'start')[0]).toMatchObject({ step: 0, notes: [] });
  });

  it('of a finished run evaluates and ends, and changes nothing', async () => {
    const before = [lastContentsOf(finished.out), metricsOf(finished.out)];
    const events = await runAll({ ...finished, resume: true });
    const types = events.map(({ type }) => type).filter((type) => type !== 'prepare');
    expect(types).toEqual(['start', 'evaluation', 'checkpoint', 'end']);
    expect(events.at(-1)).toMatchObject({ steps: 4, initialEvalLoss: null });
    expect([lastContentsOf(finished.out), metricsOf(finished.out)]).toEqual(before);
  });

  it('of a finished run goes on to more steps', async () => {
    const events = await runAll({ ...finished, steps: 6, resume: true });
    expect(eventsOf(events, 'step').map(({ step }) => step)).toEqual([5, 6]);
    expect(metricsOf(finished.out).map(({ step }) => step)).toEqual([0, 1, 2, 2, 3, 4, 4, 5, 6, 6]);
  });

  it('drops lines of metrics that come after the checkpoint, and one that was cut off', async () => {
    const options = folder.options({ ...every, steps: 5 });
    await runUntil(options, (event) => event.type === 'step' && event.step === 3);
    appendFileSync(join(options.out, 'metrics.jsonl'), '{"step":4,"lo');
    await runUntil({ ...options, resume: true }, ({ type }) => type === 'start');
    expect(metricsOf(options.out).map(({ step }) => step)).toEqual([0, 1, 2, 2]);
  });

  it('begins metrics anew when it was killed before its first checkpoint', async () => {
    const options = folder.options({ steps: 2 });
    await runUntil(options, ({ type }) => type === 'step');
    await runAll({ ...options, resume: true });
    expect(metricsOf(options.out).map(({ step }) => step)).toEqual([0, 1, 2, 2]);
  });

  it('keeps the sizes that were decided when the run began', async () => {
    const options = folder.options({ steps: 4, batch: 4, gradAccumulationSteps: 2, checkpoint: { every: 2 } });
    await runUntil(options, (event) => event.type === 'checkpoint');
    const open = { ...options, batch: 'auto', gradAccumulationSteps: 'auto', resume: true } as const;
    const [start] = eventsOf(await runUntil(open, ({ type }) => type === 'start'), 'start');
    expect(start?.step).toBe(2);
    expect(JSON.parse(readFileSync(join(options.out, 'config.json'), 'utf8'))).toMatchObject({
      batch: 4,
      gradAccumulationSteps: 2,
    });
  });

  it('is told that another number of threads, instruction set or number format gives other bits', async () => {
    const options = folder.options({ ...every, steps: 3, dtype: 'fp32' });
    await runUntil(options, (event) => event.type === 'checkpoint');
    const events = await runUntil({ ...options, resume: true, threads: 1 }, ({ type }) => type === 'start');
    expect(eventsOf(events, 'start')[0]?.notes).toEqual([
      expect.stringMatching(/made with 2 threads.*this run has 1.*not bit for bit/),
    ]);
    const other = await runUntil({ ...options, resume: true, dtype: 'bf16' }, ({ type }) => type === 'start');
    expect(eventsOf(other, 'start')[0]?.notes).toEqual([
      expect.stringMatching(/made with 2 threads.*, fp32, this run has 2.*, bf16: .*not bit for bit/),
    ]);
    const path = join(options.out, 'checkpoints/step-00000002');
    const state = JSON.parse(readFileSync(join(path, 'state.json'), 'utf8'));
    writeFileSync(join(path, 'state.json'), JSON.stringify({ ...state, instructionSet: 'neon' }));
    await writeManifest(path);
    const elsewhere = await runUntil({ ...options, resume: true }, ({ type }) => type === 'start');
    expect(eventsOf(elsewhere, 'start')[0]?.notes).toEqual([expect.stringMatching(/on neon, fp32, this run/)]);
  });
});

/** A few documents: less than an update of the test that reads it. */
function shortText(): string {
  const path = join(folder.path, 'short.jsonl');
  const texts = [
    'One river runs to the sea.',
    'Two birds sing at night.',
    'No one sees the old king.',
    'A song, again.',
  ];
  writeFileSync(path, texts.map((text) => `${JSON.stringify({ text })}\n`).join(''));
  return path;
}

async function floatsOf(dir: string, name: string, tensor: string): Promise<Float32Array> {
  await using files = await openTensorDirectory(dir, { name });
  return readFloats(files, tensor);
}
