// What a run does with what it should not be given: one clear error, and nothing damaged.
import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ErrorCode } from '../../src/core/errors.js';
import { HadalError } from '../../src/core/errors.js';
import { verifyManifest, writeManifest } from '../../src/formats/manifest.js';
import type { TrainOptions } from '../../src/train/options.js';
import { mount } from '../support/mounted.js';
import { Child } from './child.js';
import { checkpointsOf, eventsOf, RunFolder, runAll, runModel, runUntil, snapshotOf } from './runs.js';

const folder = new RunFolder();
afterAll(() => folder.remove());

/** A finished run of four steps with checkpoints at 2, 3 and 4, to be copied and damaged. */
const original = folder.options({ steps: 4, checkpoint: { every: 1, keep: 3 } });
beforeAll(async () => {
  await runAll(original);
});

function copyOfRun(): { options: TrainOptions; checkpoint: (step: number) => string } {
  const options = { ...original, out: folder.options().out, resume: true };
  cpSync(original.out, options.out, { recursive: true });
  return { options, checkpoint: (step) => join(options.out, `checkpoints/step-0000000${step}`) };
}

/** Training is refused with one error of this code and message, and its directory is as it was. */
async function expectRefused(options: TrainOptions, code: ErrorCode, message: RegExp): Promise<void> {
  const before = existsSync(options.out) ? snapshotOf(options.out) : {};
  const error = await runAll(options).then(
    () => new Error('nothing was refused'),
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(HadalError);
  expect(error).toMatchObject({ code, message: expect.stringMatching(message) });
  expect((error as HadalError).message).not.toContain('\n');
  if (existsSync(options.out)) expect(snapshotOf(options.out)).toEqual(before);
}

function flipByte(path: string, at: number): void {
  const bytes = readFileSync(path);
  const i = at < 0 ? bytes.length + at : at;
  bytes[i] = (bytes[i] as number) ^ 1;
  writeFileSync(path, bytes);
}

describe('a damaged checkpoint', () => {
  const damages: Record<string, (dir: string) => void> = {
    'with a truncated file': (dir) => truncateSync(join(dir, 'model.safetensors'), 1000),
    'with one bit of the weights flipped': (dir) => flipByte(join(dir, 'model.safetensors'), -5),
    'with one bit of the optimizer flipped': (dir) => flipByte(join(dir, 'optimizer.safetensors'), 3000),
    'without a file': (dir) => rmSync(join(dir, 'optimizer.safetensors')),
    'without manifest': (dir) => rmSync(join(dir, 'manifest.json')),
    'with a manifest of garbage': (dir) => writeFileSync(join(dir, 'manifest.json'), '{"files": [{}]}'),
    'with a state of garbage': (dir) => writeFileSync(join(dir, 'state.json'), 'garbage'),
    'that is empty': (dir) => {
      rmSync(dir, { recursive: true });
      mkdirSync(dir);
    },
  };
  for (const [name, damage] of Object.entries(damages)) {
    it(`${name} is set aside, and the one before is taken`, async () => {
      const { options, checkpoint } = copyOfRun();
      damage(checkpoint(4));
      const events = await runUntil(options, ({ type }) => type === 'start');
      expect(events.at(-1)).toMatchObject({ type: 'start', step: 3 });
      expect(eventsOf(events, 'start')[0]?.notes).toEqual([
        expect.stringMatching(/checkpoint step-00000004 is damaged and now called step-00000004\.damaged: .*expected/),
      ]);
      expect(checkpointsOf(options.out)).toEqual(['step-00000002', 'step-00000003', 'step-00000004.damaged']);
    });
  }

  it('is known whichever of its files is truncated, lacking or changed in one bit', async () => {
    const { checkpoint } = copyOfRun();
    const files = readdirSync(checkpoint(4));
    expect(files).toEqual(expect.arrayContaining(['config.json', 'manifest.json', 'state.json', 'tokenizer.json']));
    for (const file of files) {
      const path = join(checkpoint(4), file);
      const content = readFileSync(path);
      const [middle, sumInManifest] = [Math.floor(content.length / 2), content.length - 20];
      for (const damage of [
        () => truncateSync(path, middle),
        () => truncateSync(path, 0),
        () => rmSync(path),
        () => flipByte(path, file === 'manifest.json' ? sumInManifest : middle),
      ]) {
        damage();
        await expect(verifyManifest(checkpoint(4)), file).rejects.toMatchObject({ code: 'HADAL_ERR_CHECKPOINT' });
        writeFileSync(path, content);
      }
    }
    await verifyManifest(checkpoint(4));
  });

  it('is made anew by the run that goes on', async () => {
    const { options, checkpoint } = copyOfRun();
    truncateSync(join(checkpoint(4), 'model.safetensors'), 1000);
    await runAll(options);
    expect(snapshotOf(checkpoint(4))).toEqual(
      Object.fromEntries(
        Object.entries(snapshotOf(join(original.out, 'checkpoints/step-00000004'))).map(([path, content]) => [
          path.replace(original.out, options.out),
          content,
        ]),
      ),
    );
    expect(checkpointsOf(options.out)).toContain('step-00000004.damaged');
  });

  it('is an error where there is no other', async () => {
    const { options, checkpoint } = copyOfRun();
    for (const step of [2, 3, 4]) flipByte(join(checkpoint(step), 'model.safetensors'), -1);
    await expectRefused(options, 'HADAL_ERR_CHECKPOINT', /all 3 are damaged; the newest: .*step-00000004/);
  });
});

describe('a checkpoint that does not fit', () => {
  it('is of a model of other sizes', async () => {
    const { options } = copyOfRun();
    const model = { config: { ...runModel, intermediate_size: 48 } };
    await expectRefused({ ...options, model }, 'HADAL_ERR_CHECKPOINT', /'intermediate_size' is 48 .* got 40/);
  });

  it('is of a model that computes otherwise', async () => {
    const { options } = copyOfRun();
    const model = { config: { ...runModel, routed_scaling_factor: 3 } };
    await expectRefused({ ...options, model }, 'HADAL_ERR_CHECKPOINT', /'routed_scaling_factor' is 3/);
  });

  it('is of another seed or other data', async () => {
    const { options } = copyOfRun();
    await expectRefused({ ...options, seed: 9 }, 'HADAL_ERR_CHECKPOINT', /seed 5.*got .*seed 9.*to resume/);
    const data = { ...options.data, heldOut: 0.2, tokenizer: join(original.out, 'checkpoints/step-00000004') };
    await expectRefused({ ...options, data }, 'HADAL_ERR_CHECKPOINT', /same data and seed/);
  });

  for (const [name, state] of Object.entries({
    'text that is not JSON': 'garbage',
    'another type': '[]',
    'a step below zero': '{"step":-1}',
    'a cursor of garbage': null,
  })) {
    it(`has a state of ${name} under a manifest that is right`, async () => {
      const { options, checkpoint } = copyOfRun();
      const path = join(checkpoint(4), 'state.json');
      const cursor = () => JSON.stringify({ ...JSON.parse(readFileSync(path, 'utf8')), cursor: { version: 'x' } });
      writeFileSync(path, state ?? cursor());
      await writeManifest(checkpoint(4));
      await expectRefused(options, 'HADAL_ERR_CHECKPOINT', /expected|state\.json/);
    });
  }

  it('lacks a moment of the optimizer', async () => {
    const { options, checkpoint } = copyOfRun();
    cpSync(join(checkpoint(4), 'model.safetensors'), join(checkpoint(4), 'optimizer.safetensors'));
    await writeManifest(checkpoint(4));
    await expectRefused(options, 'HADAL_ERR_CHECKPOINT', /expected optimizer state '/);
  });
});

describe('a run directory', () => {
  it('that holds a run is not written over', async () => {
    const { options } = copyOfRun();
    await expectRefused({ ...options, resume: false }, 'HADAL_ERR_CONFIG', /holds a run; give --resume/);
  });

  it('cannot be a file', async () => {
    const out = join(folder.path, 'a-file');
    writeFileSync(out, 'precious');
    await expect(runAll({ ...original, out })).rejects.toMatchObject({ code: 'HADAL_ERR_IO' });
    expect(readFileSync(out, 'utf8')).toBe('precious');
  });

  it.skipIf(!existsSync('/proc/self'))('cannot lie where nothing can be made', async () => {
    await expect(runAll({ ...original, out: '/proc/hadal-run' })).rejects.toMatchObject({
      code: 'HADAL_ERR_IO',
      message: expect.stringMatching(/expected to make the run directory \/proc\/hadal-run/),
    });
  });

  it('that is read-only is refused', async (context) => {
    using mounted = mount('ro');
    if (!mounted) return context.skip('a read-only file system can be mounted by root alone');
    for (const resume of [false, true]) {
      await expect(runAll({ ...original, out: join(mounted.path, 'run'), resume })).rejects.toMatchObject({
        code: 'HADAL_ERR_IO',
        message: expect.stringMatching(/read-only file system; choose/),
      });
    }
  });

  it('on a full disk ends the run and keeps the checkpoint before', async (context) => {
    using mounted = mount('size=640k');
    if (!mounted) return context.skip('a small file system can be mounted by root alone');
    const out = join(mounted.path, 'run');
    const options = { ...original, out };
    const error = await runAll(options).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({
      code: 'HADAL_ERR_IO',
      message: expect.stringMatching(/no space left on the device/),
    });
    // No half written checkpoint, no lock; what was whole still is.
    const names = checkpointsOf(out);
    expect(names.length).toBeGreaterThan(0);
    expect(names.every((name) => /^step-\d{8}$/.test(name))).toBe(true);
    expect(existsSync(join(out, 'run.lock'))).toBe(false);
    // With space again, it goes on.
    execFileSync('mount', ['-o', 'remount,size=16m', mounted.path]);
    const events = await runAll({ ...options, resume: true });
    expect(eventsOf(events, 'start')[0]?.step).toBe(Number(names.at(-1)?.slice('step-'.length)));
    expect(events.at(-1)).toMatchObject({ type: 'end', steps: 4 });
  });
});

describe('the lock', () => {
  it('keeps a second process and a second run of this process out', async () => {
    const options = folder.options({ steps: 100_000 });
    const child = new Child(options);
    await child.until(() => child.lines.some((line) => line.startsWith('step')));
    const locked = { code: 'HADAL_ERR_LOCKED', message: expect.stringContaining(`process ${child.pid} trains there`) };
    await expect(runAll(options)).rejects.toMatchObject(locked);
    await expect(runAll({ ...options, resume: true })).rejects.toMatchObject(locked);
    expect(child.hasEnded).toBe(false);
    await child.kill();
    // Its owner is dead: the directory is free.
    const run = runUntil({ ...options, resume: true }, (event) => event.type === 'step');
    await expect(runAll({ ...options, resume: true })).rejects.toMatchObject({ code: 'HADAL_ERR_LOCKED' });
    expect((await run).at(-1)).toMatchObject({ type: 'step', step: 1 });
    expect(existsSync(join(options.out, 'run.lock'))).toBe(false);
  });

  const stale: Record<string, string> = {
    'of a process whose number another one has now': `${process.ppid} 1\n`,
    'of a process that is gone': '4194399 12345\n',
    'with garbage in it': 'garbage',
    'with a number that is no process': '-1 5\n',
    'that is very long': `${'9'.repeat(5000)}\n`,
  };
  for (const [name, content] of Object.entries(stale)) {
    it.skipIf(!existsSync('/proc/self/stat'))(`${name} is taken over`, async () => {
      const options = folder.options({ steps: 1 });
      mkdirSync(options.out);
      writeFileSync(join(options.out, 'run.lock'), content);
      await runUntil(options, ({ type }) => type === 'prepare');
      expect(readdirSync(options.out)).toEqual(['checkpoints']);
    });
  }

  it('that is being written at this moment counts', async () => {
    const options = folder.options({ steps: 1 });
    mkdirSync(options.out);
    writeFileSync(join(options.out, 'run.lock'), '');
    await expectRefused(options, 'HADAL_ERR_LOCKED', /another process trains there/);
  });
});

describe('data and sizes that cannot be trained on', () => {
  const file = (name: string, text: string) => {
    const path = join(folder.path, name);
    writeFileSync(path, text);
    return path;
  };
  const withData = (data: TrainOptions['data'], change: Partial<TrainOptions> = {}) =>
    folder.options({ data: { cache: join(folder.path, 'data'), ...data }, ...change });

  it('rows longer than the model allows', async () => {
    await expectRefused(folder.options({ seqLen: 65 }), 'HADAL_ERR_CONFIG', /'seqLen' expected at most 64.*got 65/);
  });

  it('a tokenizer larger than the vocabulary', async () => {
    const tokenizer = join(original.out, 'checkpoints/step-00000004');
    const options = withData(
      { sources: ['synthetic'], tokenizer },
      { model: { config: { ...runModel, vocab_size: 270 } } },
    );
    await expectRefused(options, 'HADAL_ERR_CONFIG', /tokenizer of at most 270 tokens.*got one of 280/);
  });

  it('a vocabulary that cannot hold the bytes', async () => {
    const options = folder.options({ model: { config: { ...runModel, vocab_size: 61 } } });
    await expectRefused(options, 'HADAL_ERR_CONFIG', /expected a vocabulary of 259 .*got 61/);
  });

  it('a tokenizer.json of garbage', async () => {
    const tokenizer = file('tokenizer.json', '{"model": 5}');
    await expectRefused(withData({ sources: ['synthetic'], tokenizer }), 'HADAL_ERR_FORMAT', /tokenizer/);
  });

  it('empty data', async () => {
    await expectRefused(withData({ sources: [file('empty.txt', '')] }), 'HADAL_ERR_DATA', /expected text, got none/);
    await expectRefused(withData({ sources: [file('blank.txt', ' \n\n ')] }), 'HADAL_ERR_DATA', /expected text/);
  });

  it('one document, since one must be held out', async () => {
    const sources = [file('one.txt', 'One short text.')];
    await expectRefused(withData({ sources }), 'HADAL_ERR_DATA', /expected at least two documents/);
  });

  it('files that are not there, or not text', async () => {
    await expectRefused(withData({ sources: ['/nowhere.txt'] }), 'HADAL_ERR_IO', /nowhere\.txt.*check the path/);
    await expectRefused(withData({ sources: [file('a.bin', 'x')] }), 'HADAL_ERR_DATA', /a\.bin; convert or rename/);
    await expectRefused(withData({ sources: [file('a.jsonl', '{"text":1}\n')] }), 'HADAL_ERR_DATA', /a\.jsonl:1/);
  });

  it('two documents, of which one is trained on, are enough', async () => {
    const sources = [file('two.jsonl', '{"text":"One."}\n{"text":"Two, three."}\n')];
    expect((await runAll(withData({ sources }, { steps: 1 }))).at(-1)).toMatchObject({ type: 'end', steps: 1 });
  });

  it('a model directory without weights', async () => {
    const directory = join(folder.path, 'weightless');
    mkdirSync(directory);
    await expectRefused(folder.options({ model: { directory } }), 'HADAL_ERR_IO', /config\.json/);
    writeFileSync(join(directory, 'config.json'), JSON.stringify(runModel));
    await expect(runAll(folder.options({ model: { directory } }))).rejects.toBeInstanceOf(HadalError);
  });

  it('more memory than there is', async () => {
    await expectRefused(
      folder.options({ batch: 2 ** 20 }),
      'HADAL_ERR_MEMORY',
      /within .* of memory, .*take .*gradAccumulationSteps/,
    );
  });

  it('sizes that kernels cannot count', async () => {
    await expectRefused(folder.options({ batch: 2 ** 30 }), 'HADAL_ERR_CONFIG', /2\^31.*smaller model, batch/);
    const change = (fields: object) => folder.options({ model: { config: { ...runModel, ...fields } } });
    await expectRefused(change({ hidden_size: 2 ** 31 - 1 }), 'HADAL_ERR_CONFIG', /smaller model/);
    await expectRefused(change({ hidden_size: 2 ** 50 }), 'HADAL_ERR_CONFIG', /'hidden_size'/);
    await expectRefused(change({ num_hidden_layers: 1e9 }), 'HADAL_ERR_CONFIG', /'num_hidden_layers'/);
  });
});
