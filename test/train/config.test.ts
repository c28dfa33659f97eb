import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { HadalError } from '../../src/core/errors.js';
import { modelFromConfig } from '../../src/models/families.js';
import { parametersOf } from '../../src/models/model.js';
import { resolveTrainConfig } from '../../src/train/config.js';
import type { TrainOptions } from '../../src/train/options.js';
import { mutated } from './mutated.js';
import { tinyConfig } from './tiny.js';

const options: TrainOptions = {
  model: { config: tinyConfig },
  data: { sources: ['synthetic'] },
  out: 'runs/a',
  steps: 10,
  batch: 4,
  seqLen: 16,
};

describe('resolveTrainConfig', () => {
  it('fills in defaults and leaves what was given', () => {
    const config = resolveTrainConfig({ ...options, optimizer: { lr: 0.5 } });
    expect(config).toMatchObject({ ...options, optimizer: { lr: 0.5, beta2: 0.95 }, seed: 0, threads: null });
    // A resolved configuration stands for itself, also when it was read from a file.
    expect(resolveTrainConfig(JSON.parse(JSON.stringify(config)))).toEqual(config);
  });

  const refused: [change: object, message: string][] = [
    [{ bach: 4 }, "field 'bach' is unknown; did you mean 'batch'?"],
    [{ batch: undefined, btach: 4 }, "field 'btach' is unknown; did you mean 'batch'?"],
    [{ optimizer: { warmupStep: 4 } }, "field 'optimizer.warmupStep' is unknown; did you mean 'warmupSteps'?"],
    [{ evaluation: { batchs: 1 } }, "field 'evaluation.batchs' is unknown; did you mean 'batches'?"],
    [{ colour: 'red' }, "field 'colour' is unknown"],
    [{ steps: undefined }, "field 'steps' expected a number, got nothing"],
    [{ optimizer: { lr: Number.NaN } }, "field 'optimizer.lr' expected a number, got NaN"],
    [{ optimizer: { lr: Number.POSITIVE_INFINITY } }, "field 'optimizer.lr' expected a number, got Infinity"],
    [{ optimizer: { lr: '1e-3' } }, 'field \'optimizer.lr\' expected a number, got "1e-3"'],
    [{ optimizer: { lr: 0 } }, "field 'optimizer.lr' expected more than 0, got 0"],
    [{ optimizer: { beta2: 1 } }, "field 'optimizer.beta2' expected less than 1, got 1"],
    [{ optimizer: null }, "field 'optimizer' expected object, got null"],
    [{ steps: 0 }, "field 'steps' expected more than 0, got 0"],
    [{ steps: 1.5 }, "field 'steps' expected a whole number, got 1.5"],
    [{ steps: 10n }, "field 'steps' expected a number, got 10n"],
    [{ seed: -1 }, "field 'seed' expected at least 0, got -1"],
    [{ dtype: 'fp64' }, 'field \'dtype\' expected "auto" or "fp32" or "bf16" or "fp16" or "fp8", got "fp64"'],
    [{ device: 'tpu' }, 'field \'device\' expected auto, cpu, cuda, cuda:<number> or cuda-sim, got "tpu"'],
    [{ data: { sources: [] } }, "field 'data.sources' expected at least 1 of them, got []"],
    [{ data: { sources: ['a', 5] } }, "field 'data.sources.1' expected a "],
    [{ model: {} }, "field 'model' expected either { config } or { directory }, got {}"],
    [{ model: { direcotry: 'a' } }, "field 'model.direcotry' is unknown; did you mean 'directory'?"],
    [{ model: { directory: 5 } }, "field 'model.directory' expected a text, got 5"],
    [{ model: 'x' }, 'field \'model\' expected either { config } or { directory }, got "x"'],
    [{ model: { config: {}, directory: 'a' } }, "field 'model' expected either { config } or { directory }"],
    [{ batch: 6, gradAccumulationSteps: 4 }, "field 'gradAccumulationSteps' expected a divisor of batch 6, got 4"],
    [{ batch: 6, batchRamp: { from: 8, steps: 9 } }, "field 'batchRamp.from' expected at most batch 6, got 8"],
    [
      { batch: 8, gradAccumulationSteps: 2, batchRamp: { from: 2, steps: 9 } },
      "field 'batchRamp.from' expected at least a micro-batch of 4 rows (batch / gradAccumulationSteps), got 2",
    ],
    [
      { checkpoint: { best: 1 } },
      "field 'checkpoint.best' expected 0 where evaluation.every is 0: the best are those of the lowest held-out loss, got 1",
    ],
  ];
  for (const [change, message] of refused) {
    it(`says: ${message}`, () => {
      const error = errorOf(() => resolveTrainConfig({ ...options, ...change }, 'file.json'));
      expect(error).toMatchObject({ code: 'HADAL_ERR_CONFIG', exitStatus: 2 });
      expect(error?.message).toContain(`[file.json] ${message}`);
    });
  }

  it('tells all that is wrong, misspelt names first and their absence not again', () => {
    const config = { ...options, batch: undefined, bacth: 4, optimizer: { lr: -1, beta: 2 }, seed: 'x' };
    expect(errorOf(() => resolveTrainConfig(config))?.message.split('\n')).toEqual([
      "[config] field 'optimizer.beta' is unknown; did you mean 'beta1'?",
      "[config] field 'bacth' is unknown; did you mean 'batch'?",
      "[config] field 'optimizer.lr' expected more than 0, got -1",
      '[config] field \'seed\' expected a number, got "x"',
    ]);
  });

  it('stops after five', () => {
    const unknown = Object.fromEntries(Array.from({ length: 7 }, (_, i) => [`unknownField${i}`, 0]));
    const lines = errorOf(() => resolveTrainConfig({ ...options, ...unknown }))?.message.split('\n');
    expect(lines).toHaveLength(6);
    expect(lines?.at(-1)).toBe('… and 2 more');
  });

  it('names for each field the place where it was set', () => {
    const config = { ...options, steps: 0, seed: -1 };
    const message = errorOf(() => resolveTrainConfig(config, ([name]) => `${name}.yaml:1`))?.message;
    expect(message).toMatch(/^\[steps\.yaml:1\] field 'steps' .*\n\[seed\.yaml:1\] field 'seed' /);
  });

  it('refuses what is no object at all', () => {
    for (const value of [null, undefined, 5, 'text', [], () => {}]) {
      expect(errorOf(() => resolveTrainConfig(value))?.message).toMatch(/^\[config\] expected object, got /);
    }
  });
});

/** The HadalError that a call throws, null when it throws none. Anything else goes on. */
function errorOf(call: () => unknown): HadalError | null {
  try {
    call();
    return null;
  } catch (error) {
    if (!(error instanceof HadalError)) throw error;
    return error;
  }
}

describe('configurations that were changed at random', () => {
  const full = resolveTrainConfig(options);

  it('are resolved, or refused with at most five clear lines and a count', () => {
    const seen = { resolved: 0, refused: 0 };
    const property = fc.property(mutated(full), (config) => {
      const error = errorOf(() => {
        const resolved = resolveTrainConfig(config);
        expect(resolveTrainConfig(resolved)).toEqual(resolved);
      });
      seen[error ? 'refused' : 'resolved']++;
      if (error)
        expect(error).toMatchObject({
          code: 'HADAL_ERR_CONFIG',
          message: expect.stringMatching(/^\[config\] [^\n]+(\n\[config\] [^\n]+){0,4}(\n… and \d+ more)?$/),
        });
    });
    fc.assert(property, { numRuns: 2000, seed: 1 });
    expect(Math.min(seen.resolved, seen.refused)).toBeGreaterThan(100);
  });

  it('of models give a model whose parameters can be listed, or are refused', () => {
    const seen = { resolved: 0, refused: 0 };
    const property = fc.property(mutated(tinyConfig), (config) => {
      const error = errorOf(() => {
        const parameters = parametersOf(modelFromConfig(config));
        for (const { shape } of parameters.values())
          expect(shape.every((n) => Number.isSafeInteger(n) && n > 0)).toBe(true);
      });
      seen[error ? 'refused' : 'resolved']++;
      if (error)
        expect(error).toMatchObject({
          code: 'HADAL_ERR_CONFIG',
          message: expect.stringMatching(/^\[config\.json\] [^\n]+$/),
        });
    });
    fc.assert(property, { numRuns: 600, seed: 1 });
    expect(Math.min(seen.resolved, seen.refused)).toBeGreaterThan(50);
  });
});
