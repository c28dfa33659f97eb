// Optimizers in whole runs: every kind's state survives a checkpoint, groups reach the parameters they name, and the mean of the
// weights is a model of its own.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { openTensorDirectory } from '../../src/formats/safetensors.js';
import { loadModel } from '../../src/index.js';
import type { TrainOptions } from '../../src/train/options.js';
import { checkpointsOf, eventsOf, RunFolder, runAll, runUntil } from './runs.js';

const folder = new RunFolder();
afterAll(() => folder.remove());

type OptimizerOptions = NonNullable<TrainOptions['optimizer']>;

const run = (optimizer: OptimizerOptions, change: Partial<TrainOptions> = {}) =>
  folder.options({
    steps: 4,
    checkpoint: { every: 2 },
    ...change,
    optimizer: { lr: 3e-3, warmupSteps: 2, ...optimizer },
  });
const lastOf = (out: string) => join(out, 'checkpoints', checkpointsOf(out).at(-1) as string);
/** Sizes and checksums of all files, those in folders included. */
const manifestOf = (out: string) => readFileSync(join(lastOf(out), 'manifest.json'), 'utf8');

async function tensorsOf(dir: string, name: string): Promise<Map<string, string>> {
  await using files = await openTensorDirectory(dir, { name });
  const read = [...files.tensors].map(async ([tensor, { dtype }]) => {
    return [tensor, `${dtype} ${Buffer.from(await files.read(tensor)).toString('base64')}`] as const;
  });
  return new Map(await Promise.all(read));
}

describe('a run that is resumed equals one that was not interrupted, with', () => {
  const kinds: [string, OptimizerOptions, RegExp][] = [
    ['AdamW in bf16', { momentDtype: 'bf16' }, /^adam\.[mv]\//],
    [
      'β that change',
      { betaSchedule: { beta1End: 0.5, beta2End: 0.99, power: 2 } },
      /^(adam\.[mv]\/|state\/correction)/,
    ],
    ['Lion', { kind: 'lion', lr: 3e-4 }, /^lion\.m\//],
    [
      'Lion with a root',
      { kind: 'lion', lionVariant: 'root', lr: 1e-4, eps: 0.1, momentDtype: 'bf16' },
      /^lion\.[ms]\//,
    ],
    ['SGD', { kind: 'sgd', momentum: 0.9 }, /^sgd\.momentum\//],
    ['SGD without momentum', { kind: 'sgd', momentum: 0 }, /^state\//],
    ['Muon and the mean of weights', { kind: 'muon', emaDecay: 0.9 }, /^(muon\.momentum|adam\.[mv])\//],
  ];
  it.each(kinds)('%s', async (_, optimizer, slots) => {
    const [whole, parts] = [run(optimizer), run(optimizer)];
    const events = await runAll(whole);
    await runUntil(parts, (event) => event.type === 'step' && event.step === 3);
    await runAll({ ...parts, resume: true });
    expect(manifestOf(parts.out)).toEqual(manifestOf(whole.out));
    const names = [...(await tensorsOf(lastOf(whole.out), 'optimizer')).keys()];
    expect(names.filter((name) => !/^state\/(updates|correction)/.test(name)).every((name) => slots.test(name))).toBe(
      true,
    );
    expect(names).toContain('state/updates');
    const losses = eventsOf(events, 'step').map(({ loss }) => loss);
    expect(losses.at(-1)).toBeLessThan(losses[0] as number);
  });
});

it('keeps the mean of the weights as a directory that opens as a model', async () => {
  const options = run({ emaDecay: 0.99 }, { steps: 3, dtype: 'bf16' });
  const [before, after] = eventsOf(await runAll(options), 'evaluation');
  const weights = await tensorsOf(lastOf(options.out), 'model');
  const means = await tensorsOf(join(lastOf(options.out), 'ema'), 'model');
  expect([...means.keys()]).toEqual([...weights.keys()]);
  for (const [name, mean] of means) expect(mean === weights.get(name), name).toBe(false);
  expect(before).not.toHaveProperty('emaEvalLoss');
  const saved = folder.options({ model: { directory: join(lastOf(options.out), 'ema') }, steps: 1, dtype: 'bf16' });
  const [ofMeans] = eventsOf(await runAll(saved), 'evaluation');
  expect(ofMeans?.evalLoss).toBe(after?.emaEvalLoss);
  expect(after?.emaEvalLoss).not.toBe(after?.evalLoss);
  using model = await loadModel(join(lastOf(options.out), 'ema'));
  expect(model.config).toMatchObject({ model_type: 'deepseek_v3' });
  await expect(runAll({ ...run({}, { steps: 4 }), out: options.out, resume: true })).resolves.toBeDefined();
});

it('takes the weights for their means until the first update', async () => {
  const rules = [{ metric: 'gradNorm', above: 1e-6, action: 'skip' } as const];
  const options = run({ emaDecay: 0.9 }, { steps: 2, watch: { rules } });
  await runAll(options);
  const [weights, means] = [lastOf(options.out), join(lastOf(options.out), 'ema')];
  expect(await tensorsOf(means, 'model')).toEqual(await tensorsOf(weights, 'model'));
  await runAll({ ...options, steps: 3, resume: true, watch: { rules: [] } });
  expect(await tensorsOf(join(lastOf(options.out), 'ema'), 'model')).toEqual(
    await tensorsOf(lastOf(options.out), 'model'),
  );
});

it('does not resume with means that it never kept', async () => {
  const options = run({}, { steps: 2 });
  await runAll(options);
  const resumed = { ...run({ emaDecay: 0.9 }, { steps: 3 }), out: options.out, resume: true };
  await expect(runAll(resumed)).rejects.toMatchObject({
    code: 'HADAL_ERR_CHECKPOINT',
    message: expect.stringMatching(/emaDecay/),
  });
});

it('groups freeze what they name and nothing else', async () => {
  const groups = [{ match: '*.self_attn.*', trainable: false }];
  const [before, after] = [1, 3].map((steps) => run({ groups, schedule: { shape: 'constant' } }, { steps }));
  await runAll(before!);
  await runAll(after!);
  const [first, last] = [await tensorsOf(lastOf(before!.out), 'model'), await tensorsOf(lastOf(after!.out), 'model')];
  for (const [name, content] of first) {
    if (name.endsWith('.bias')) continue; // the router's, which moves by itself or not
    expect(last.get(name) === content, name).toBe(name.includes('.self_attn.'));
  }
  const state = [...(await tensorsOf(lastOf(after!.out), 'optimizer')).keys()];
  expect(state.filter((name) => name.includes('.self_attn.'))).toEqual([]);
});

it('refuses a group that fits no parameter', async () => {
  const options = run({ groups: [{ match: 'model.layer.*', lrRatio: 0.1 }] });
  await expect(runAll(options)).rejects.toMatchObject({
    code: 'HADAL_ERR_CONFIG',
    message: expect.stringMatching(/'model\.layer\.\*'/),
  });
});
