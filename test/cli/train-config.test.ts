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
    expect(config.checkpoint).toMatchObject({ every: 2, keep: 2 });
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
    expect(await modelOf({ config: 'run.json', preset: 'test' })).toEqual({ ...whole.model, ties: [], lowRank: [] });
    expect(await modelOf({ preset: 'test', model: 'some/dir' })).toEqual({
      directory: 'some/dir',
      ties: [],
      lowRank: [],
    });
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

describe('a configuration file', () => {
  it('is found where none is named, and told', async () => {
    writeFileSync('hadal.config.yaml', 'preset: test\nsteps: 8\n');
    const found: string[] = [];
    const onFound = (file: string) => void found.push(file);
    expect(await trainConfigFrom({}, onFound)).toMatchObject({ steps: 8, batch: 4, out: join('runs', 'run-1') });
    expect(await trainConfigFrom({ resume: true, out: 'new' }, onFound)).toMatchObject({ steps: 8, resume: true });
    expect(found).toEqual(['hadal.config.yaml', 'hadal.config.yaml']);
  });

  it('is not looked for where a preset, a file or a run that goes on is named', async () => {
    writeFileSync('hadal.config.json', '{"preset": "test", "steps": 8}');
    writeFileSync('run.json', JSON.stringify({ ...whole, out: 'before' }));
    mkdirSync('before');
    writeFileSync('before/config.json', JSON.stringify({ ...whole, out: 'before' }));
    const onFound = (file: string) => expect.fail(`${file} was taken`);
    expect((await trainConfigFrom({ preset: 'test' }, onFound)).steps).toBe(100);
    expect((await trainConfigFrom({ config: 'run.json' }, onFound)).steps).toBe(7);
    expect((await trainConfigFrom({ resume: true, out: 'before' }, onFound)).steps).toBe(7);
  });

  it('starts from its preset, which flags may replace; names its runs', async () => {
    writeFileSync('run.yaml', 'preset: shallow\nname: tales\ndata:\n  heldOut: 0.5\n');
    expect(await trainConfigFrom({ config: 'run.yaml' })).toMatchObject({
      data: { sources: ['sotu'], heldOut: 0.5 },
      steps: 500,
      out: join('runs', 'tales-1'),
    });
    expect((await trainConfigFrom({ config: 'run.yaml', preset: 'test' })).steps).toBe(100);
  });

  it('may say that its runs go on', async () => {
    for (const name of ['tales-1', 'tales-2']) mkdirSync(join('runs', name), { recursive: true });
    writeFileSync('run.yaml', 'preset: test\nname: tales\nresume: true\n');
    const config = await trainConfigFrom({ config: 'run.yaml' });
    expect(config).toMatchObject({ resume: true, out: join('runs', 'tales-2') });
  });

  it('may leave a field undefined', async () => {
    writeFileSync('run.mjs', 'export default { preset: "test", steps: undefined, data: { sources: undefined } }');
    expect(await trainConfigFrom({ config: 'run.mjs' })).toMatchObject({
      steps: 100,
      data: { sources: ['synthetic'] },
    });
  });

  it('tells line and column of all that is wrong', async () => {
    writeFileSync(
      'run.yaml',
      [
        '# yaml-language-server: $schema=x',
        'presett: test',
        'steps: many',
        'optimizer: &o',
        '  lr: 0.1',
        '  wamupSteps: 3',
        'data:',
        '  sources:',
        '    - a.txt',
        '    - 5',
      ].join('\n'),
    );
    expect((await refusal({ config: 'run.yaml' })).split('\n')).toEqual([
      "[run.yaml:6:3] field 'optimizer.wamupSteps' is unknown; did you mean 'warmupSteps'?",
      "[run.yaml:2:1] field 'presett' is unknown; did you mean 'preset'?",
      "[run.yaml:10:7] field 'data.sources.1' expected a path or { path, weight, textField }, got 5",
      '[run.yaml:3:1] field \'steps\' expected a number, got "many"',
    ]);
    writeFileSync('run.json', '{\n\t"optimizer": {\n\t\t"lr": -1 }, "preset": "tset"\n}');
    expect((await refusal({ config: 'run.json' })).split('\n')).toEqual([
      expect.stringMatching(
        /^\[run\.json:3:15\] field 'preset' expected "shallow" or "test" or .*, got "tset"; did you mean 'test'\?$/,
      ),
      "[run.json:3:3] field 'optimizer.lr' expected more than 0, got -1",
    ]);
  });

  it('is told apart from the command line', async () => {
    writeFileSync('run.json', JSON.stringify({ ...whole, batch: undefined }));
    expect((await refusal({ config: 'run.json', set: ['seed=-1'] })).split('\n')).toEqual([
      '[run.json] field \'batch\' expected a whole number from 1 on, or "auto", got nothing',
      "[command line] field 'seed' expected at least 0, got -1",
    ]);
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
    writeFileSync('f.yaml', 'model:\n  config: &c\n    a: *c\n');
    writeFileSync('g.yaml', 'name: ../up\n');
    expect(await refusal({ config: 'a.json' })).toMatch(/expected valid JSON in a\.json/);
    expect(await refusal({ config: 'b.yaml' })).toMatch(/expected valid YAML in b\.yaml:1:6, got /);
    expect(await refusal({ config: 'c.yaml' })).toMatch(/^\[c\.yaml\] expected object, got \[ 1 \]$/);
    expect(await refusal({ config: 'd.mjs' })).toMatch(/expected d\.mjs to load, got not today/);
    expect(await refusal({ config: 'e.json' })).toMatch(/\[e\.json\] field 'model'/);
    expect(await refusal({ config: 'f.yaml' })).toMatch(/expected valid YAML in f\.yaml, got .*circular/);
    expect(await refusal({ config: 'g.yaml' })).toMatch(
      /^\[g\.yaml:1:1\] field 'name' expected letters, .*got "\.\.\/up"$/,
    );
  });

  it('two files that could both be meant', async () => {
    for (const name of ['hadal.config.json', 'hadal.config.ts']) writeFileSync(name, '{}');
    expect(await refusal({})).toMatch(/expected one hadal\.config file, got hadal\.config\.ts and hadal\.config\.json/);
  });
});
