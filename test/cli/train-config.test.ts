import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { TrainFlags } from '../../src/cli/train.js';
import { trainConfigFrom } from '../../src/cli/train-config.js';

let dir: string;
let before: string;
beforeEach(() => {
  before = process.cwd();
  dir = mkdtempSync(join(tmpdir(), 'hadal-config-'));
  process.chdir(dir);
});
afterEach(() => {
  process.chdir(before);
  rmSync(dir, { recursive: true });
});

const refusal = async (flags: TrainFlags) => {
  const error = await trainConfigFrom(flags).then(
    () => null,
    (thrown: Error & { exitStatus?: number }) => thrown,
  );
  expect(error?.exitStatus).toBe(2);
  return error?.message ?? '';
};

const modelOf = async (flags: TrainFlags) =>
  (await trainConfigFrom(flags)).model as { config: Record<string, unknown> };

const whole = {
  model: { config: { model_type: 'gpt2', vocab_size: 300 } },
  data: { sources: ['a.txt'] },
  steps: 7,
  batch: 2,
  seqLen: 8,
};

describe('configuration of a run', () => {
  it('is preset shallow where nothing is said', async () => {
    const config = await trainConfigFrom({});
    expect(config).toMatchObject({ data: { sources: ['sotu'] }, resume: false, out: join('runs', 'shallow-1') });
  });

  it('takes flags over the preset', async () => {
    const flags = {
      preset: 'test',
      steps: 5,
      seed: 3,
      checkpointEvery: 2,
      threads: 1,
      data: ['x.txt', 'y'],
      out: 'here',
    } as const;
    const config = await trainConfigFrom({ ...flags, data: [...flags.data] });
    expect(config).toMatchObject({ steps: 5, seed: 3, threads: 1, out: 'here', batch: 4 });
    expect(config.checkpoint).toEqual({ every: 2, keep: 2 });
    expect(config.data).toMatchObject({ sources: ['x.txt', 'y'], heldOut: 0.05 });
  });

  it('takes --set over all else: JSON where it is, else text; later ones over earlier ones', async () => {
    const set = [
      'optimizer.lr=3e-4',
      'model.config.hidden_size=48',
      'data.sources=["a","b"]',
      'data.cache=a=b',
      'steps=9',
      'steps=10',
    ];
    const config = await trainConfigFrom({ preset: 'test', steps: 5, set });
    expect(config.optimizer).toMatchObject({ lr: 3e-4, warmupSteps: 10 });
    expect(config.data).toMatchObject({ sources: ['a', 'b'], cache: 'a=b' });
    expect(config.steps).toBe(10);
    expect((config.model as { config: Record<string, unknown> }).config).toMatchObject({
      hidden_size: 48,
      num_hidden_layers: 2,
    });
  });

  it('reads JSON, YAML and JavaScript, each alone or over a preset', async () => {
    writeFileSync('run.json', JSON.stringify({ $schema: 'any', ...whole }));
    writeFileSync('run.yaml', 'steps: 8\noptimizer:\n  lr: 0.5\nmodel:\n  config:\n    hidden_size: 40\n');
    writeFileSync('run.mjs', `export default ${JSON.stringify({ ...whole, steps: 9 })}`);
    expect(await trainConfigFrom({ config: 'run.json' })).toMatchObject({ steps: 7, out: join('runs', 'run-1') });
    expect(await trainConfigFrom({ config: 'run.mjs' })).toMatchObject({ steps: 9 });
    const mixed = await trainConfigFrom({ config: 'run.yaml', preset: 'test' });
    expect(mixed).toMatchObject({
      steps: 8,
      batch: 4,
      optimizer: { lr: 0.5, warmupSteps: 10 },
      model: { config: { hidden_size: 40, vocab_size: 320 } },
    });
  });

  it('a model that says what it is takes the place of the whole one before', async () => {
    writeFileSync('run.json', JSON.stringify(whole));
    expect(await modelOf({ config: 'run.json', preset: 'test' })).toEqual(whole.model);
    expect(await modelOf({ preset: 'test', model: 'some/dir' })).toEqual({ directory: 'some/dir' });
  });

  it('counts run directories on; resuming takes the last one, with its own configuration', async () => {
    for (const name of ['test-1', 'test-12', 'test-x', 'other-40']) mkdirSync(join('runs', name), { recursive: true });
    expect((await trainConfigFrom({ preset: 'test' })).out).toBe(join('runs', 'test-13'));
    expect((await trainConfigFrom({ preset: 'test', resume: true })).out).toBe(join('runs', 'test-12'));
    writeFileSync('runs/test-1/config.json', JSON.stringify({ ...whole, out: 'moved/since' }));
    const again = await trainConfigFrom({ resume: true, out: 'runs/test-1', steps: 30 });
    expect(again).toMatchObject({ steps: 30, batch: 2, out: 'runs/test-1', resume: true });
  });
});

describe('what is refused, with status 2', () => {
  it.each<[string, TrainFlags, RegExp]>([
    ['a field nobody knows', { set: ['optimiser.lr=1'] }, /field 'optimiser' is unknown; did you mean 'optimizer'\?/],
    [
      'a nested one',
      { set: ['optimizer.weightdecay=1'] },
      /'optimizer.weightdecay' is unknown; did you mean 'weightDecay'/,
    ],
    ['a value that cannot be', { set: ['batch=0'] }, /'batch'.*0/],
    ['text for a number', { set: ['steps=many'] }, /'steps'.*many/],
    ['--set without a value', { set: ['steps'] }, /expected --set path=value, got 'steps'/],
    ['--set without a path', { set: ['.a=1'] }, /expected --set path=value, got '\.a=1'/],
    ['a path into the prototype', { set: ['__proto__.steps=1'] }, /'__proto__' is unknown/],
    [
      'a published model without data',
      { preset: 'deepseek-v3' },
      /expected data for preset 'deepseek-v3', got none; name files/,
    ],
    ['a dtype not there', { dtype: 'fp64' }, /'dtype'.*fp64/],
    ['no such file', { config: 'none.json' }, /ENOENT/],
    ['another kind of file', { config: 'run.toml' }, /expected a configuration that ends in .*run\.toml/],
  ])('%s', async (_, flags, message) => {
    expect(await refusal(flags)).toMatch(message);
  });

  it('files that do not parse, or hold something else', async () => {
    writeFileSync('a.json', '{"steps": 1,}');
    writeFileSync('b.yaml', 'a: [1');
    writeFileSync('c.yaml', '- 1\n');
    writeFileSync('d.mjs', 'throw new Error("not today")');
    writeFileSync('e.json', '{"steps": 3}');
    expect(await refusal({ config: 'a.json' })).toMatch(/expected valid JSON in a\.json/);
    expect(await refusal({ config: 'b.yaml' })).toMatch(/expected valid YAML in b\.yaml/);
    expect(await refusal({ config: 'c.yaml' })).toMatch(/expected an object in c\.yaml, got \[1\]/);
    expect(await refusal({ config: 'd.mjs' })).toMatch(/expected d\.mjs to load, got not today/);
    expect(await refusal({ config: 'e.json' })).toMatch(/\[e\.json\] field 'model'/);
  });
});
