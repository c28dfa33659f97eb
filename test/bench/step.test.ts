// `hadal bench step` on given weights and tokens, and `--profile` of both commands that train.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ChromeTrace } from '../../src/runtime/chrome-trace.js';
import { runModel } from '../train/runs.js';

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
const dir = mkdtempSync(join(tmpdir(), 'hadal-bench-step-'));
afterAll(() => rmSync(dir, { recursive: true }));

function hadal(...args: string[]) {
  const env = { ...process.env, NO_COLOR: '1', HADAL_DEBUG: '0' };
  return spawnSync(process.execPath, [main, ...args], { cwd: dir, encoding: 'utf8', env });
}

const traceOf = (path: string) => JSON.parse(readFileSync(join(dir, path), 'utf8')) as ChromeTrace;
const sizes = ['--batch', '2', '--seq', '16', '--steps', '2', '--warmup', '1', '--threads', '2'];
const train = ['train', '--config', 'run.json', '--out'];

beforeAll(() => {
  const run = {
    ...{ model: { config: runModel }, data: { sources: ['synthetic'], cache: 'cache' } },
    ...{ steps: 4, batch: 2, seqLen: 24, threads: 2, evaluation: { batches: 1 } },
  };
  writeFileSync(join(dir, 'run.json'), JSON.stringify(run));
  writeFileSync(join(dir, 'config.json'), JSON.stringify(runModel));
  const tokens = Int32Array.from({ length: 4 * 2 * 16 }, (_, i) => (i * i) % 280);
  writeFileSync(join(dir, 'tokens.bin'), tokens);
  writeFileSync(join(dir, 'beyond.bin'), tokens.fill(280));
});

describe('train --profile', () => {
  it('writes the trace of one step and shows its tables', () => {
    const { status, stdout, stderr } = hadal(...train, 'profiled', '--profile', 'train.json');
    expect(stderr).toBe('');
    expect(status).toBe(0);
    expect(stdout).toMatch(/^op +calls +ms +share +GFLOP\/s +GB\/s\n/m);
    expect(stdout).toMatch(/^module +calls +ms[\s\S]*^model\.layers\.\*\.mlp/m);
    expect(stdout.match(/^profile of .* instructions in train\.json/gm)).toHaveLength(1);
    const { traceEvents, otherData } = traceOf('train.json');
    const events = traceEvents.filter(({ ph }) => ph === 'X');
    expect(new Set(events.map(({ cat }) => cat))).toEqual(new Set(['whole']));
    expect(events.map(({ name }) => name)).toEqual(
      expect.arrayContaining(['attention', 'attention-backward', 'adamw']),
    );
    expect(otherData).toMatchObject({ threads: 2 });
    // Watching changes nothing.
    hadal(...train, 'plain');
    const weights = (run: string) => {
      const [last = ''] = readdirSync(join(dir, run, 'checkpoints'))
        .sort()
        .reverse();
      return readFileSync(join(dir, run, 'checkpoints', last, 'model.safetensors'), 'base64');
    };
    expect(weights('profiled')).toBe(weights('plain'));
  });

  it('refuses a path that cannot be written, before the run begins', () => {
    const { status, stderr } = hadal(...train, 'refused', '--profile', 'config.json/train.json');
    expect(status).toBe(2);
    expect(stderr).toMatch(/config\.json/);
    expect(existsSync(join(dir, 'refused'))).toBe(false);
  });
});

describe('bench step', () => {
  const bench = (...args: string[]) => hadal('bench', 'step', ...sizes, ...args);

  it('trains a given model on given tokens, the same each time', () => {
    hadal(...train, 'source');
    const [checkpoint = ''] = readdirSync(join(dir, 'source', 'checkpoints'));
    const model = join('source', 'checkpoints', checkpoint);
    const losses = (...args: string[]) => {
      const { stdout, stderr } = bench('--json', '--tokens', 'tokens.bin', ...args);
      expect(stderr.replace(/^step .*\n/gm, '')).toBe('');
      const { loss_first, loss_last } = JSON.parse(stdout) as Record<string, number>;
      return [loss_first, loss_last] as [number, number];
    };
    const given = losses('--model', model);
    expect(losses('--model', model)).toEqual(given);
    expect(losses('--model', model, '--seed', '9')).toEqual(given);
    expect(losses('--config', 'config.json')[0]).not.toBe(given[0]);
    const [inBf16] = losses('--model', model, '--dtype', 'bf16');
    expect(Math.abs(inBf16 - given[0]) / given[0]).toBeLessThan(1e-2);
    expect(inBf16).not.toBe(given[0]);
  });

  it('--profile measures one step more', () => {
    const { stdout } = bench('--config', 'config.json', '--profile', 'step.json', '--json');
    const { profile } = JSON.parse(stdout) as {
      profile: Record<string, { calls: number; ms: number; share: number }[]>;
    };
    const events = traceOf('step.json').traceEvents.filter(({ ph }) => ph === 'X');
    for (const rows of [profile.ops ?? [], profile.modules ?? []]) {
      expect(rows.reduce((sum, { calls }) => sum + calls, 0)).toBe(events.length);
      expect(rows.reduce((sum, { share }) => sum + share, 0)).toBeCloseTo(1, 6);
      const ms = rows.reduce((sum, row) => sum + row.ms, 0);
      expect(ms).toBeCloseTo(events.reduce((sum, { dur = 0 }) => sum + dur, 0) / 1000, 6);
    }
    expect(bench('--config', 'config.json', '--profile', 'step.json').stdout).toMatch(/^total +\d+[\s\S]*^module/m);
  });

  it.each([
    [['--config', 'config.json', '--model', 'x'], 2, /one of --config and --model/],
    [[], 2, /one of --config and --model/],
    [['--config', 'config.json', '--tokens', 'tokens.bin', '--steps', '9'], 3, /expected 320 token ids.*got 128/],
    [['--config', 'config.json', '--tokens', 'beyond.bin'], 3, /ids from 0 to 279 in beyond\.bin, got 280/],
    [['--config', 'config.json', '--profile', 'run.json/x'], 2, /write .*run\.json\/x, got/],
  ])('refuses %j', (args, expected, message) => {
    const { status, stderr } = bench(...args);
    expect(stderr).toMatch(message);
    expect(status).toBe(expected);
  });
});
