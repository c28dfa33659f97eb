import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { verifyManifest } from '../../src/formats/manifest.js';
import { loadModel } from '../../src/generate/loaded-model.js';
import type { TrainEvent } from '../../src/train/events.js';
import type { TrainOptions } from '../../src/train/options.js';
import { train } from '../../src/train/train.js';
import { Child } from './child.js';
import {
  checkpointsOf,
  contentsOf,
  eventsOf,
  lastContentsOf,
  metricsOf,
  RunFolder,
  runAll,
  runModel,
  runUntil,
  withoutMeasures,
} from './runs.js';

const folder = new RunFolder();
afterAll(() => folder.remove());

const weightsOf = (run: string) => lastContentsOf(run)['model.safetensors'];
const finite = expect.toSatisfy((x: unknown) => Number.isFinite(x), 'a finite number');

describe('train', () => {
  const options = folder.options({ evaluation: { every: 2, batches: 2 }, checkpoint: { every: 2, keep: 2 } });
  const run = options.out;
  let events: TrainEvent[];
  beforeAll(async () => {
    events = await runAll(options);
  });

  it('yields preparation, start, then steps with their evaluations and checkpoints, then the end', () => {
    const types = events.map(({ type }) => type);
    const prepared = types.lastIndexOf('prepare');
    expect(new Set(types.slice(0, prepared + 1))).toEqual(new Set(['prepare']));
    expect(new Set(eventsOf(events, 'prepare').map(({ phase }) => phase))).toEqual(
      new Set(['tokenizer', 'data', 'program']),
    );
    const both = ['step', 'step', 'evaluation'];
    // Periodic checkpoints are written while training goes on, and told when they stand.
    const others = types.slice(prepared + 1).filter((type) => type !== 'checkpoint');
    expect(others).toEqual(['start', 'evaluation', ...both, ...both, ...both, 'end']);
    expect(eventsOf(events, 'checkpoint').map(({ step }) => step)).toEqual([2, 4, 6]);
    expect(types.at(-2)).toBe('checkpoint');
  });

  it('says what is trained, where and on what', () => {
    expect(eventsOf(events, 'start')).toEqual([
      {
        type: 'start',
        runDir: run,
        step: 0,
        steps: 6,
        parameters: expect.any(Number),
        activeParameters: expect.any(Number),
        trainTokens: expect.any(Number),
        heldOutTokens: expect.any(Number),
        device: 'cpu',
        threads: 2,
        dtype: expect.stringMatching(/^(fp32|bf16)$/),
        instructionSet: expect.stringMatching(/^(portable|avx2|avx512|avx512bf16)$/),
        memory: {
          weights: finite,
          gradients: finite,
          optimizer: finite,
          activations: finite,
          workspace: finite,
          buffers: finite,
          snapshot: finite,
          planned: finite,
          allocated: finite,
          saved: finite,
          offloaded: 0,
          base: finite,
          total: finite,
          budget: finite,
        },
        rank: 0,
        worldSize: 1,
        notes: [],
      },
    ]);
    const [start] = eventsOf(events, 'start');
    expect(start?.activeParameters).toBeLessThan(start?.parameters as number);
    expect(start?.heldOutTokens).toBeLessThan((start?.trainTokens as number) / 10);
    // Whole pages, and in bf16 copies of matrices.
    expect(start?.memory.weights).toBeGreaterThan(4 * (start?.parameters as number));
  });

  it('tells every step', () => {
    const steps = eventsOf(events, 'step');
    expect(steps.map(({ step }) => step)).toEqual([1, 2, 3, 4, 5, 6]);
    for (const step of steps) {
      const shape = {
        type: 'step',
        step: finite,
        steps: 6,
        tokens: step.step * 2 * 24,
        loss: finite,
        mtpLoss: finite,
        balanceLoss: finite,
        lr: finite,
        gradNorm: finite,
        clippedNorm: finite,
        skipped: false,
        overflowed: false,
        lossScale: null,
        expertImbalance: finite,
        lossVariance: step.step === 1 ? null : finite,
        activationRange: null,
        zerosShare: null,
        tokensPerSecond: finite,
        stepMs: finite,
        residentBytes: finite,
        allocatedBytes: finite,
        allocatedPeakBytes: finite,
      };
      expect(step).toEqual(shape);
    }
    expect(steps.map(({ lr }) => lr).slice(0, 3)).toEqual([0.005, 0.01, 0.01]);
  });

  it('learns', () => {
    const [end] = eventsOf(events, 'end');
    expect(events.at(-1)).toBe(end);
    expect(end?.evalLoss).toBeLessThan((end?.initialEvalLoss as number) - 0.3);
    expect(end).toMatchObject({ runDir: run, steps: 6, tokens: 288, skippedSteps: 0, loss: finite, seconds: finite });
    const last = eventsOf(events, 'evaluation').at(-1);
    expect(last).toMatchObject({ evalLoss: end?.evalLoss, bitsPerByte: end?.bitsPerByte });
    // Bytes a token: at least 1, since a token is at least a byte; few merges leave most tokens a byte or two.
    const bitsPerToken = (last?.evalLoss as number) / Math.LN2;
    expect(bitsPerToken / (last?.bitsPerByte as number)).toBeGreaterThan(0.9);
    expect(bitsPerToken / (last?.bitsPerByte as number)).toBeLessThan(3);
  });

  it('writes a line of metrics for every step and evaluation', () => {
    const expected = events
      .filter((event) => event.type === 'step' || event.type === 'evaluation')
      .map((event) => {
        const { type, steps, ...line } = { steps: 0, ...event };
        return withoutMeasures(line);
      });
    expect(metricsOf(run)).toEqual(expected);
    expect(readFileSync(join(run, 'metrics.jsonl'), 'utf8')).toMatch(/"stepMs":[\d.]+/);
  });

  it('leaves a run directory as the architecture has it, without lock or leftovers', () => {
    expect(readdirSync(run).sort()).toEqual(['checkpoints', 'config.json', 'metrics.jsonl']);
    // Of the checkpoints at 2, 4 and 6, two are kept.
    expect(checkpointsOf(run)).toEqual(['step-00000004', 'step-00000006']);
    expect(readdirSync(join(run, 'checkpoints/step-00000006')).sort()).toEqual([
      'config.json',
      'manifest.json',
      'model.safetensors',
      'optimizer.safetensors',
      'state.json',
      'tokenizer.json',
      'tokenizer_config.json',
    ]);
  });

  it('writes the resolved configuration, which repeats the run bit for bit', async () => {
    const config = JSON.parse(readFileSync(join(run, 'config.json'), 'utf8')) as TrainOptions;
    expect(config).toMatchObject({ device: 'cpu', threads: 2, gradAccumulationSteps: 1, loss: { mtpWeight: 0.3 } });
    const again = { ...config, out: `${run}-again` };
    await runAll(again);
    expect(lastContentsOf(again.out)).toEqual(lastContentsOf(run));
    expect(metricsOf(again.out)).toEqual(metricsOf(run));
  });

  it('resolves automatic choices in the configuration', async () => {
    const automatic = folder.options({ threads: null, device: 'auto', steps: 1 });
    await runAll(automatic);
    const config = JSON.parse(readFileSync(join(automatic.out, 'config.json'), 'utf8')) as TrainOptions;
    expect(config).toMatchObject({ device: 'cpu', threads: expect.any(Number) });
  });

  it('writes checkpoints that are whole, are models, and say where the run stands', async () => {
    const path = join(run, 'checkpoints/step-00000006');
    expect((await verifyManifest(path)).files).toHaveLength(6);
    expect(eventsOf(events, 'checkpoint').at(-1)).toMatchObject({ step: 6, path, bytes: finite });
    const state = JSON.parse(readFileSync(join(path, 'state.json'), 'utf8'));
    expect(state).toMatchObject({ step: 6, tokens: 288, skippedSteps: 0, seed: 5, threads: 2 });
    expect(state.cursor).toMatchObject({ token: 288, seed: 5 });
    using model = await loadModel(path, { device: 'cpu', dtype: 'fp32' });
    const { logits, shape } = await model.forward([[1, 2, 3, 4]]);
    expect(shape).toEqual([1, 4, runModel.vocab_size]);
    expect(logits.every(Number.isFinite)).toBe(true);
    let text = '';
    for await (const piece of model.generate('The cat', { maxTokens: 4, seed: 1, ignoreEos: true })) text += piece.text;
    expect(text).not.toBe('');
  });

  it('gives the same bits for the same seed and others for another', async () => {
    const [same, other] = [folder.options(), folder.options({ seed: 6 })];
    await runAll(same);
    await runAll(other);
    expect(weightsOf(same.out)).toBe(weightsOf(run));
    expect(weightsOf(other.out)).not.toBe(weightsOf(run));
  });

  it('trains on from a model directory, with its tokenizer', async () => {
    const directory = join(run, 'checkpoints/step-00000006');
    const from = folder.options({ model: { directory }, steps: 1 });
    const more = await runAll(from);
    expect(eventsOf(more, 'prepare').map(({ phase }) => phase)).not.toContain('tokenizer');
    // The same held-out text, evaluated before the first update.
    expect(eventsOf(more, 'end')[0]?.initialEvalLoss).toBe(eventsOf(events, 'end')[0]?.evalLoss);
    expect(lastContentsOf(from.out)['tokenizer.json']).toBe(contentsOf(directory)['tokenizer.json']);
  });

  it('trains GPT-2, which has no experts and no prediction modules', async () => {
    const config = { model_type: 'gpt2', vocab_size: 280, n_positions: 32, n_embd: 16, n_layer: 1, n_head: 2 };
    const plain = folder.options({ model: { config }, steps: 2 });
    const [step] = eventsOf(await runAll(plain), 'step');
    expect(step).toMatchObject({ loss: finite, mtpLoss: null, balanceLoss: null, expertImbalance: null });
  });
});

describe('stopping', () => {
  it('leaving the loop stops after the step and gives the directory free', async () => {
    const options = folder.options({ steps: 50 });
    const events = await runUntil(options, ({ type }) => type === 'step');
    expect(eventsOf(events, 'step')).toHaveLength(1);
    expect(metricsOf(options.out).map(({ step }) => step)).toEqual([0, 1]);
    expect(existsSync(join(options.out, 'run.lock'))).toBe(false);
    expect(checkpointsOf(options.out)).toEqual([]);
    // Free for the next one, in the same process.
    expect((await runAll({ ...options, steps: 1 })).at(-1)?.type).toBe('end');
  });

  it('leaving the loop leaves nothing that keeps the process', async () => {
    for (const type of ['prepare', 'start', 'step']) {
      expect(await new Child(folder.options({ steps: 50 }), type).ended, type).toBe(0);
    }
  });

  it('leaving the loop ends preparation, too', async () => {
    const cache = join(folder.path, 'unprepared');
    const options = folder.options({ data: { sources: ['synthetic'], cache } });
    await runUntil(options, ({ type }) => type === 'prepare');
    expect(existsSync(join(options.out, 'run.lock'))).toBe(false);
    expect(existsSync(cache) ? readdirSync(cache) : []).toEqual([]);
  });

  it('aborting saves after the step and throws', async () => {
    const controller = new AbortController();
    const options = folder.options({ steps: 50 });
    const events: TrainEvent[] = [];
    const run = (async () => {
      for await (const event of train(options, { signal: controller.signal })) {
        events.push(event);
        if (event.type === 'step' && event.step === 2) controller.abort();
      }
    })();
    await expect(run).rejects.toMatchObject({
      code: 'HADAL_ERR_ABORTED',
      exitStatus: 130,
      message: expect.stringMatching(/after 2 of 50 steps.*step-00000002.*--resume/),
    });
    expect(events.at(-1)).toMatchObject({ type: 'checkpoint', step: 2 });
    expect(checkpointsOf(options.out)).toEqual(['step-00000002']);
    expect(existsSync(join(options.out, 'run.lock'))).toBe(false);
  });

  it('aborting before it begins prepares nothing', async () => {
    const options = folder.options({ data: { sources: ['synthetic'], cache: join(folder.path, 'never') } });
    await expect(runAll(options, AbortSignal.abort())).rejects.toMatchObject({ code: 'HADAL_ERR_ABORTED' });
    expect(checkpointsOf(options.out)).toEqual([]);
  });
});
