// Checkpoints of several processes: whole on all or on none, and read by any number of them at any ZeRO stage.
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { HadalError } from '../../src/core/errors.js';
import { verifyManifest, writeManifest } from '../../src/formats/manifest.js';
import { openTensorDirectory } from '../../src/formats/safetensors.js';
import { residualPrefix } from '../../src/optim/dist-config.js';
import { openDevice } from '../../src/runtime/device.js';
import { readFloats } from '../../src/session/model-directory.js';
import { damageIn, loadNewestCheckpoint } from '../../src/train/checkpoint.js';
import { listCheckpoints } from '../../src/train/checkpoint-list.js';
import { requireOneDirectory } from '../../src/train/one-directory.js';
import { RunDirectory } from '../../src/train/run-directory.js';
import { saveTogether } from '../../src/train/save-together.js';
import { savedTensors, type TensorHolder } from '../../src/train/saved-tensors.js';
import { CheckpointSaver } from '../../src/train/saving.js';
import { Together } from '../../src/train/together.js';
import { fill as fillDisk, mount } from '../support/mounted.js';
import { localWorlds } from '../support/worlds.js';
import { expectedOf, fill, holderOf, numbersIn, type Setup, stateAt } from './sharded-holders.js';

const folder = mkdtempSync(join(tmpdir(), 'hadal-sharded-'));
const device = openDevice('cpu', { threads: 1 });
afterAll(() => {
  device.dispose();
  rmSync(folder, { recursive: true });
});

const config = { every: 1, keep: 9, best: 0, background: false };
const newRun = (parent = folder) => {
  const path = mkdtempSync(join(parent, 'run-'));
  mkdirSync(join(path, 'checkpoints'));
  return path;
};
const left = (run: string) => readdirSync(join(run, 'checkpoints')).sort();

/** One process of a run. */
interface Process {
  rank: number;
  together: Together;
  directory: RunDirectory;
  holder: TensorHolder;
}

/** Does the same in all processes of a run. */
async function inAll<T>(run: string, setup: Setup, work: (process: Process) => Promise<T>): Promise<T[]> {
  const { worldSize } = setup;
  await using joined = worldSize > 1 ? await localWorlds(worldSize) : null;
  const processes = await Promise.all(
    Array.from({ length: worldSize }, async (_, rank) => ({
      rank,
      together: new Together(joined?.worlds[rank] ?? null),
      directory: rank === 0 ? await RunDirectory.open(run, { resume: true }) : RunDirectory.ofAnother(run),
      holder: holderOf(device, rank, setup),
    })),
  );
  try {
    const results = await Promise.allSettled(processes.map(work));
    return results.map((result) => {
      if (result.status === 'rejected') throw result.reason;
      return result.value;
    });
  } finally {
    for (const { directory, holder } of processes) {
      directory.dispose();
      for (const tensor of holder.tensors.values()) tensor.dispose();
    }
    for (const world of joined?.worlds ?? []) await world[Symbol.asyncDispose]();
  }
}

const saved = (run: string, setup: Setup, { background = false, step = 3 } = {}) =>
  inAll(run, setup, async ({ rank, together, directory, holder }) => {
    await fill(holder, rank);
    await using saver = new CheckpointSaver(directory, holder, {}, { ...config, background }, together);
    const state = stateAt(step, setup.worldSize, setup.zero);
    if (!background) return [await saver.save(state)];
    await saver.begin(state);
    // What follows is not in it.
    for (const tensor of holder.tensors.values()) await tensor.write(new Float32Array(tensor.size).fill(-1));
    await saver.settle();
    return saver.takeEvents();
  });

const loaded = <T>(run: string, setup: Setup, look: (process: Process, notes: string[]) => Promise<T>) =>
  inAll(run, setup, async (process) => {
    const notes: string[] = [];
    const state = await loadNewestCheckpoint(
      process.directory,
      process.holder,
      (note) => notes.push(note),
      process.together,
    );
    expect(state?.step).toBe(3);
    return look(process, notes);
  });

const setups = fc.record({ worldSize: fc.integer({ min: 1, max: 4 }), zero: fc.integer({ min: 0, max: 3 }) });

describe('a checkpoint', () => {
  it('of any number of processes and stage is read by any other', async () => {
    await fc.assert(
      fc.asyncProperty(setups, setups, fc.boolean(), fc.boolean(), async (from, to, hasMeans, background) => {
        const run = newRun();
        await saved(run, { ...from, hasMeans }, { background });
        expect(left(run)).toEqual(['step-00000003']);
        const notes = await loaded(run, { ...to, hasMeans }, async ({ holder, rank }, notes) => {
          for (const tensor of savedTensors(holder).values())
            expect(await numbersIn(tensor), `${tensor.name} on rank ${rank}`).toEqual(expectedOf(tensor, rank));
          return notes;
        });
        expect(notes.flat()).toEqual([]);
        rmSync(run, { recursive: true });
      }),
      {
        numRuns: 6,
        examples: [
          [{ worldSize: 4, zero: 0 }, { worldSize: 2, zero: 0 }, true, true],
          [{ worldSize: 2, zero: 1 }, { worldSize: 3, zero: 2 }, true, false],
          [{ worldSize: 4, zero: 3 }, { worldSize: 1, zero: 0 }, false, true],
          [{ worldSize: 1, zero: 0 }, { worldSize: 3, zero: 3 }, true, false],
        ],
      },
    );
  }, 60_000);

  it.each([0, 3])('of stage %i holds models whole, and every file once', async (zero) => {
    const run = newRun();
    await saved(run, { worldSize: 3, zero, hasMeans: true });
    const path = join(run, 'checkpoints', 'step-00000003');
    const holder = holderOf(device, 0, { worldSize: 1, zero: 0, hasMeans: true });
    for (const [dir, prefix] of [
      [path, ''],
      [join(path, 'ema'), 'ema/'],
    ] as const) {
      await using files = await openTensorDirectory(dir);
      for (const { name, shape, parts, trainable } of holder.parameters.values()) {
        if (parts.length > 1) continue;
        const mean = savedTensors(holder).get(trainable ? prefix + name : name);
        const numbers = mean && expectedOf(mean, 0);
        expect(files.tensors.get(parts[0]?.name as string)?.shape, name).toEqual(shape);
        expect(await readFloats(files, parts[0]?.name as string), name).toEqual(numbers);
      }
    }
    const { files } = await verifyManifest(path);
    const listed = files.map((file) => file.path);
    expect(listed.filter((file) => file.startsWith('optimizer'))).toEqual(
      [1, 2, 3].map((n) => `optimizer-0000${n}-of-00003.safetensors`),
    );
    expect(listed.filter((file) => file.includes('weights'))).toEqual([]);
    expect(JSON.parse(readFileSync(join(path, 'state.json'), 'utf8')).dist).toEqual({ worldSize: 3, zero });
    // All of them have written something of the model.
    expect(listed.filter((file) => file.startsWith('model-')).length).toBeGreaterThanOrEqual(3);
  });

  it('is whole only with each number of its state there once', async () => {
    const run = newRun();
    await saved(run, { worldSize: 2, zero: 2 });
    expect(await listCheckpoints(run)).toMatchObject([{ step: 3, worldSize: 2, zero: 2 }]);
    const path = join(run, 'checkpoints', 'step-00000003');
    expect(await damageIn(path, { rank: 0, size: 1 })).toBeNull();
    const [first, second] = [1, 2].map((n) => join(path, `optimizer-0000${n}-of-00002.safetensors`)) as [
      string,
      string,
    ];
    copyFileSync(second, first);
    await writeManifest(path);
    expect(await damageIn(path, { rank: 0, size: 1 })).toMatch(/each number of '.*' once/);
  });

  it('of one process is what it was before there were others', async () => {
    const run = newRun();
    await saved(run, { worldSize: 1, zero: 0 });
    const path = join(run, 'checkpoints', 'step-00000003');
    expect(readdirSync(path).sort()).toEqual([
      'config.json',
      'manifest.json',
      'model.safetensors',
      'optimizer.safetensors',
      'state.json',
    ]);
    expect(JSON.parse(readFileSync(join(path, 'state.json'), 'utf8'))).not.toHaveProperty('dist');
  });
});

describe('what compression left of gradients', () => {
  const residuals = (holder: TensorHolder) =>
    [...savedTensors(holder).values()].filter(({ name }) => name.startsWith(residualPrefix));

  it('is kept by each process where there are as many, else in sum', async () => {
    const run = newRun();
    await saved(run, { worldSize: 3, zero: 1, hasResiduals: true });
    const same = await loaded(run, { worldSize: 3, zero: 0, hasResiduals: true }, async ({ holder, rank }) => {
      for (const tensor of residuals(holder)) expect(await numbersIn(tensor)).toEqual(expectedOf(tensor, rank));
      return residuals(holder).length;
    });
    expect(Math.min(...same)).toBeGreaterThan(10);
    const parts = await loaded(run, { worldSize: 2, zero: 2, hasResiduals: true }, async ({ holder }) =>
      Promise.all(residuals(holder).map(async (tensor) => ({ tensor, numbers: await numbersIn(tensor) }))),
    );
    for (const [i, { tensor, numbers }] of (parts[0] ?? []).entries()) {
      const before = [0, 1, 2].map((rank) => expectedOf(tensor, rank));
      const sum = numbers.map((x, n) => x + (parts[1]?.[i]?.numbers[n] as number));
      expect(sum).toEqual(before[0]?.map((x, n) => x + (before[1]?.[n] as number) + (before[2]?.[n] as number)));
    }
  });

  it('is dropped with a word where gradients are no longer compressed, and begins with one where they are at last', async () => {
    const [with_, without] = [newRun(), newRun()];
    await saved(with_, { worldSize: 2, zero: 0, hasResiduals: true });
    await saved(without, { worldSize: 2, zero: 0 });
    const [notes] = await loaded(with_, { worldSize: 2, zero: 0 }, async (_, notes) => notes);
    expect(notes).toEqual(['gradients are no longer compressed: what was left of earlier ones is dropped']);
    const [news] = await loaded(without, { worldSize: 2, zero: 0, hasResiduals: true }, async (_, notes) => notes);
    expect(news).toEqual([expect.stringMatching(/begins with nothing left of earlier ones/)]);
  });
});

describe('saving together', () => {
  const sum = { bytes: 5, sha256: '0'.repeat(64) };
  const write = (rank: number) => async (dir: string) => {
    writeFileSync(join(dir, `part-${rank}`), 'bytes');
    return { [`part-${rank}`]: sum };
  };
  const work = { assemble: null, isPassing: () => false, texts: { 'state.json': '{}' } };
  /** Ranks of a round; the worlds end with it. */
  async function attempt(
    run: string,
    size: number,
    part: (rank: number, lose: (rank: number) => void) => (dir: string) => Promise<Record<string, typeof sum>>,
    pathOf = (_rank: number) => join(run, 'checkpoints', 'step-00000001'),
  ) {
    await using joined = await localWorlds(size);
    const results = await Promise.allSettled(
      joined.worlds.map((world, rank) =>
        saveTogether(new Together(world), 'save/1', pathOf(rank), { ...work, write: part(rank, joined.lose) }),
      ),
    );
    for (const world of joined.worlds) await world[Symbol.asyncDispose]();
    return results.map((result) => (result.status === 'rejected' ? (result.reason as HadalError) : result.value));
  }

  it('fails on all where it fails on one, names it, and leaves nothing', async () => {
    const run = newRun();
    mkdirSync(join(run, 'checkpoints', 'step-00000000'));
    const results = await attempt(run, 3, (rank) => async (dir) => {
      await write(rank)(dir);
      if (rank === 1) throw new HadalError('HADAL_ERR_IO', '[file] expected to write it, got ENOSPC');
      return { [`part-${rank}`]: sum };
    });
    for (const error of results)
      expect(error).toMatchObject({ code: 'HADAL_ERR_IO', message: expect.stringMatching(/ENOSPC \(rank 1 on /) });
    expect(left(run)).toEqual(['step-00000000']);
  });

  it.each([1, 0])('ends where rank %i is lost; what it leaves, the next save removes', async (lost) => {
    const run = newRun();
    const results = await attempt(run, 3, (rank, lose) => async (dir) => {
      const written = await write(rank)(dir);
      if (rank === lost) lose(rank);
      return written;
    });
    for (const error of results) expect(error).toMatchObject({ code: 'HADAL_ERR_COMM' });
    expect(left(run).filter((name) => !name.includes('.tmp-'))).toEqual([]);
    mkdirSync(join(run, 'checkpoints', 'step-00000007.tmp-litter'));
    expect(await attempt(run, 2, write)).toEqual([expect.any(Number), expect.any(Number)]);
    expect(left(run)).toEqual(['step-00000001']);
    await expect(verifyManifest(join(run, 'checkpoints', 'step-00000001'), { checksums: false })).resolves.toBeTruthy();
  });

  it('says where processes have no directory in common', async () => {
    const runs = [newRun(), newRun()] as [string, string];
    const results = await attempt(runs[0], 2, write, (rank) =>
      join(runs[rank] as string, 'checkpoints', 'step-00000001'),
    );
    for (const error of results)
      expect(error).toMatchObject({
        code: 'HADAL_ERR_CONFIG',
        message: expect.stringMatching(
          /expected one directory for all processes, got none .* for rank 1 .*that all hosts share/,
        ),
      });
    expect(runs.map(left)).toEqual([[], []]);
  });

  it('warns of a full disk on all processes, and goes on', async (context) => {
    using mounted = mount('size=4m');
    if (!mounted) return context.skip('a small file system can be mounted by root alone');
    const run = newRun(mounted.path);
    const filler = join(mounted.path, 'filler');
    const told = await inAll(run, { worldSize: 2, zero: 2 }, async ({ rank, together, directory, holder }) => {
      await fill(holder, rank);
      await using saver = new CheckpointSaver(directory, holder, {}, { ...config, background: true }, together);
      await saver.save(stateAt(3, 2, 2));
      await together.madeByFirst('filled', async () => fillDisk(filler));
      await saver.begin(stateAt(4, 2, 2));
      await saver.settle();
      return saver.takeEvents();
    });
    for (const events of told)
      expect(events).toEqual([
        { type: 'warning', step: 4, message: expect.stringMatching(/saving failed, training goes on.*no space left/) },
      ]);
    expect(left(run)).toEqual(['step-00000003']);
  });
});

describe('loading together', () => {
  it('takes the same checkpoint everywhere, and sets damaged ones aside once', async () => {
    const run = newRun();
    await saved(run, { worldSize: 2, zero: 2 });
    await saved(run, { worldSize: 3, zero: 1 }, { step: 5 });
    // The third rank alone reads the file that is damaged.
    const file = join(run, 'checkpoints', 'step-00000005', 'optimizer-00003-of-00003.safetensors');
    const bytes = readFileSync(file);
    bytes[bytes.length - 1] = (bytes.at(-1) as number) ^ 1;
    writeFileSync(file, bytes);
    const notes = await loaded(run, { worldSize: 3, zero: 0 }, async (_, notes) => notes);
    for (const each of notes)
      expect(each).toEqual([expect.stringMatching(/step-00000005 is damaged.*another checksum/)]);
    expect(left(run)).toEqual(['step-00000003', 'step-00000005.damaged']);
  });

  it('begins only where all processes see one run directory', async () => {
    const [run, other] = [newRun(), newRun()] as [string, string];
    await inAll(run, { worldSize: 2, zero: 0 }, async ({ rank, together }) => {
      await requireOneDirectory(together, run);
      await expect(requireOneDirectory(together, rank === 0 ? run : other)).rejects.toMatchObject({
        code: 'HADAL_ERR_CONFIG',
        message: expect.stringMatching(/got another at .* for rank 1 .* that all hosts share/),
      });
    });
  });

  it('says which process does not see the checkpoints', async () => {
    const [run, other] = [newRun(), newRun()];
    await saved(run, { worldSize: 2, zero: 0 });
    const all = inAll(run, { worldSize: 2, zero: 0 }, async ({ rank, holder, together }) => {
      using directory = rank === 0 ? null : RunDirectory.ofAnother(other);
      const seen = directory ?? RunDirectory.ofAnother(run);
      return loadNewestCheckpoint(seen, holder, () => {}, together);
    });
    await expect(all).rejects.toMatchObject({
      code: 'HADAL_ERR_CONFIG',
      message: expect.stringMatching(/rank 1 has no .*step-00000003/),
    });
    expect(existsSync(join(run, 'checkpoints', 'step-00000003'))).toBe(true);
  });
});
