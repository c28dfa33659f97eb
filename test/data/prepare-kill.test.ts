// Preparation that is killed, interrupted or damaged on the way ends in the same bytes as one that was left alone.
import { spawn } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type PrepareOptions, prepare } from '../../src/data/prepare-directory.js';
import { createTokenizer } from '../../src/data/tokenizer.js';
import { saveTokenizer, trainTokenizer } from '../../src/data/train-tokenizer.js';
import { TokenShards } from '../../src/formats/token-shards.js';
import { Rng } from '../support/rng.js';

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
const dir = mkdtempSync(join(tmpdir(), 'hadal-prepare-kill-'));
afterAll(() => rmSync(dir, { recursive: true }));
const at = (name: string): string => join(dir, name);
const sources = [at('a.jsonl'), { path: at('b.jsonl') }];
const shardTokens = 120_000;
const options = (out: string): PrepareOptions => ({
  sources,
  tokenizer: at('tokenizer'),
  out: at(out),
  shardTokens,
  threads: 2,
});

/** Every file below a directory. */
function snapshotOf(path: string): Record<string, string> {
  const names = readdirSync(path, { recursive: true }) as string[];
  const files = names.filter((name) => statSync(join(path, name)).isFile()).sort();
  return Object.fromEntries(files.map((name) => [name, readFileSync(join(path, name)).toString('base64')]));
}

let expected: Record<string, string>;
beforeAll(async () => {
  const rng = new Rng('prepare');
  const words = Array.from({ length: 500 }, (_, i) => `w${i.toString(36)}`);
  const text = (): string =>
    Array.from({ length: 5 + rng.integer(1500) }, () => words[Math.floor(500 * rng.uniform() ** 2)]).join(' ');
  for (const name of ['a', 'b'])
    writeFileSync(at(`${name}.jsonl`), Array.from({ length: 240 }, () => JSON.stringify({ text: text() })).join('\n'));
  await saveTokenizer(at('tokenizer'), await trainTokenizer({ sources: [at('a.jsonl')], vocabSize: 400 }));
  await prepare(options('whole'));
  expected = snapshotOf(at('whole'));
}, 120_000);

describe('a preparation that was', () => {
  it('left alone has several shards, all documents in order, and nothing beside them', async () => {
    const names = Object.keys(expected);
    expect(names.filter((name) => /^train\/.*\.bin$/.test(name)).length).toBeGreaterThan(3);
    expect(names.filter((name) => !/^(train|held-out)\//.test(name))).toEqual([
      'prepared.json',
      'tokenizer.json',
      'tokenizer_config.json',
    ]);
    const { json, configJson } = { json: readFileSync(at('tokenizer/tokenizer.json'), 'utf8'), configJson: undefined };
    const tokenizer = createTokenizer(json, configJson);
    const lines = readFileSync(at('a.jsonl'), 'utf8').split('\n');
    using shards = TokenShards.open(at('whole/train'));
    const trained = lines.filter((_, i) => i % 20 !== 1);
    for (const document of [0, 100, 227])
      expect(await tokenizer.decode(shards.read(document))).toBe(JSON.parse(trained[document] as string).text);
    await shards.verify();
  });

  it('killed again and again is gone on with to the same bytes', async () => {
    const rng = new Rng('kill');
    const out = at('killed');
    const args = ['prepare', '--data', at('a.jsonl'), at('b.jsonl'), '--tokenizer', at('tokenizer'), '--out', out];
    const moments: number[] = [];
    for (let tries = 0; tries < 30; tries++) {
      const before = progressOf(out);
      const child = spawn(process.execPath, [
        main,
        ...args,
        '--shard-tokens',
        `${shardTokens}`,
        '--threads',
        '2',
        '--json',
      ]);
      const ended = new Promise<number | null>((resolve) => child.on('exit', resolve));
      // Every third anywhere, also before it has begun; the others at once after another shard.
      const isAnywhere = tries % 3 === 2;
      const delayMs = (isAnywhere ? 1500 : 60) * rng.uniform();
      while (!isAnywhere && child.exitCode === null && progressOf(out) === before) await setTimeout(5);
      const status = await Promise.race([ended, setTimeout(delayMs, 'kill' as const)]);
      if (status !== 'kill') {
        expect(status).toBe(0);
        break;
      }
      child.kill('SIGKILL');
      await ended;
      expect(progressOf(out)).toBeGreaterThanOrEqual(before);
      moments.push(progressOf(out));
    }
    // It was killed with shards on disk, several times, and never lost one.
    expect(new Set(moments.filter((documents) => documents > 0 && Number.isFinite(documents))).size).toBeGreaterThan(1);
    await prepare(options('killed'));
    expect(snapshotOf(out)).toEqual(expected);
  }, 300_000);

  it('interrupted keeps its shards', async () => {
    const stopAt = 420_000;
    const controller = new AbortController();
    const onProgress = ({ tokens }: { tokens: number }): void => void (tokens >= stopAt && controller.abort());
    await expect(prepare(options('stopped'), { signal: controller.signal, onProgress })).rejects.toMatchObject({
      code: 'HADAL_ERR_ABORTED',
    });
    const seen: number[] = [];
    const { reused } = await prepare(options('stopped'), { onProgress: ({ tokens }) => seen.push(tokens) });
    expect(reused).toBe(false);
    // Documents whose shards were closed are not tokenized again.
    expect(seen[0]).toBeGreaterThan(stopAt - shardTokens - 150_000);
    expect(snapshotOf(at('stopped'))).toEqual(expected);
  }, 120_000);

  it('damaged meanwhile is made anew', async () => {
    const damages: ((out: string) => void)[] = [
      (out) => truncateSync(join(out, 'train/tokens-00001.bin'), 9),
      (out) => writeFileSync(join(out, 'prepared.json'), '{}'),
    ];
    for (const [i, damage] of damages.entries()) {
      cpSync(at('whole'), at(`damaged-${i}`), { recursive: true });
      damage(at(`damaged-${i}`));
      expect((await prepare(options(`damaged-${i}`))).reused).toBe(false);
      expect(snapshotOf(at(`damaged-${i}`))).toEqual(expected);
    }
    expect((await prepare(options('whole'))).reused).toBe(true);
  }, 120_000);
});

describe('prepare', () => {
  it('takes only directories that are its own', async () => {
    const other = { ...options('whole'), heldOut: 0.1 };
    const message = /data prepared from other files or with other options in it; choose another directory/;
    await expect(prepare(other)).rejects.toMatchObject({
      code: 'HADAL_ERR_CONFIG',
      message: expect.stringMatching(message),
    });
    expect(snapshotOf(at('whole'))).toEqual(expected);
    await expect(prepare({ ...options(''), out: at('tokenizer/..') })).rejects.toThrow(
      /new or empty, got 'a\.jsonl' in it/,
    );
  });

  it.each<[string, (dir: string) => void]>([
    ['train/mine.txt', (dir) => mkdirSync(join(dir, 'train'))],
    ['held-out/mine.txt', (dir) => mkdirSync(join(dir, 'held-out'))],
    ['tokenizer.json', () => {}],
    ['train', () => {}],
    [
      'train/mine.txt',
      (dir) => {
        cpSync(at('whole'), dir, { recursive: true });
        truncateSync(join(dir, 'prepared.json'), 9);
      },
    ],
  ])('refuses a directory with %s of someone else, and leaves it as it was', async (name, arrange) => {
    const out = mkdtempSync(at('other-'));
    arrange(out);
    writeFileSync(join(out, name), 'mine');
    const before = snapshotOf(out);
    await expect(prepare({ ...options(''), out })).rejects.toMatchObject({
      code: 'HADAL_ERR_CONFIG',
      message: expect.stringContaining(`'${name}'`),
    });
    expect(snapshotOf(out)).toEqual(before);
  });

  it('keeps a second one out of its directory', async () => {
    const results = await Promise.allSettled([prepare(options('same')), prepare(options('same'))]);
    const codes = results.map((result) => (result.status === 'rejected' ? result.reason.code : 'done'));
    expect(codes.sort()).toEqual(['HADAL_ERR_LOCKED', 'done']);
    expect(snapshotOf(at('same'))).toEqual(expected);
  });

  it('changes weights without making shards again', async () => {
    const weighted = {
      ...options('whole'),
      sources: sources.map((path, i) => ({ path: typeof path === 'string' ? path : path.path, weight: i + 1 })),
    };
    const { reused, sources: made } = await prepare(weighted);
    expect(reused).toBe(true);
    expect(made.map(({ weight }) => weight)).toEqual([1, 2]);
    expect((await prepare(options('whole'))).sources.map(({ weight }) => weight)).toEqual([null, null]);
    expect(snapshotOf(at('whole'))).toEqual(expected);
  });

  it.each([
    [{ sources: [] }, /\[prepare\] field 'sources' expected at least 1/],
    [{ sources: [{ path: 'a', weight: 1 }, 'b'] }, /a weight for every source or for none/],
    [{ heldOut: 0.7 }, /field 'heldOut' expected at most 0\.5, got 0\.7/],
    [{ tokenizr: 'x' }, /'tokenizr' is unknown; did you mean 'tokenizer'/],
  ])('refuses %j', async (change, message) => {
    const wrong = prepare({ ...options('wrong'), ...change } as PrepareOptions);
    await expect(wrong).rejects.toMatchObject({ code: 'HADAL_ERR_CONFIG', message: expect.stringMatching(message) });
  });
});

/** Documents that are behind a preparation. */
function progressOf(out: string): number {
  if (existsSync(join(out, 'prepared.json'))) return Number.POSITIVE_INFINITY; // whole, and killed on its way out
  try {
    const { train, heldOut } = JSON.parse(readFileSync(join(out, 'progress.json'), 'utf8'));
    return train.documents + heldOut.documents;
  } catch {
    return 0;
  }
}
