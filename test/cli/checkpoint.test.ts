// `hadal checkpoint` as a user calls it, on a run whose first evaluation is the best.
import { spawnSync } from 'node:child_process';
import { cpSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { RunDirectory } from '../../src/train/run-directory.js';
import { checkpointsOf, RunFolder, runAll } from '../train/runs.js';

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
const folder = new RunFolder();
afterAll(() => folder.remove());

const original = folder.options({
  steps: 5,
  evaluation: { every: 2, batches: 1 },
  checkpoint: { every: 1, keep: 9 },
});
beforeAll(async () => {
  await runAll(original);
});

function copyOfRun(): string {
  const { out } = folder.options();
  cpSync(original.out, out, { recursive: true });
  return out;
}

function hadal(...args: string[]) {
  const env = { ...process.env, NO_COLOR: '1', HADAL_DEBUG: '0' };
  const { status, stdout, stderr } = spawnSync(process.execPath, [main, 'checkpoint', ...args], {
    encoding: 'utf8',
    env,
  });
  return { status, stdout, stderr };
}

const damage = (run: string, name: string, file: string) => {
  const path = join(run, 'checkpoints', name, file);
  const bytes = readFileSync(path);
  bytes[bytes.length - 5] = (bytes.at(-5) as number) ^ 1;
  writeFileSync(path, bytes);
};

describe('ls', () => {
  it('shows size, age, loss and why each is kept', () => {
    const { status, stdout } = hadal('ls', original.out);
    expect(status).toBe(0);
    const lines = stdout.trimEnd().split('\n');
    expect(lines[0]).toMatch(/^checkpoint +processes +size +age +held-out loss +kept as$/);
    expect(lines.slice(1).map((line) => line.split(' ')[0])).toEqual(checkpointsOf(original.out).reverse());
    expect(lines[1]).toMatch(/^step-00000005 +1 +[\d.]+ [KM]iB +\d+:\d\d +\d\.\d{4} +newest 9$/);
    expect(lines[3]).toMatch(/^step-00000003 .* – +newest 9$/);
  });

  it('--json says the same, and what has other sizes than its manifest', () => {
    const run = copyOfRun();
    writeFileSync(join(run, 'checkpoints/step-00000002/state.json'), '{}');
    const { checkpoints } = JSON.parse(hadal('ls', run, '--json').stdout);
    expect(checkpoints).toHaveLength(5);
    expect(checkpoints[0]).toMatchObject({ name: 'step-00000005', step: 5, kept: 'newest 9', damage: null });
    expect(checkpoints[0].bytes).toBeGreaterThan(100_000);
    expect(checkpoints[0].evalLoss).toBeGreaterThan(1);
    expect(checkpoints[3]).toMatchObject({
      step: 2,
      evalLoss: null,
      damage: expect.stringMatching(/state\.json of \d+ bytes/),
    });
  });

  it('refuses what is no run', () => {
    const { status, stderr } = hadal('ls', folder.path);
    expect(status).toBe(2);
    expect(stderr).toMatch(/expected a run directory with checkpoints/);
  });
});

describe('verify', () => {
  it('passes whole checkpoints, all or one', () => {
    const { status, stdout } = hadal('verify', original.out);
    expect([status, stdout.match(/^whole /gm)?.length]).toEqual([0, 5]);
    const one = hadal('verify', join(original.out, 'checkpoints/step-00000002'), '--json');
    expect([one.status, JSON.parse(one.stdout).checkpoints]).toEqual([0, [expect.objectContaining({ damage: null })]]);
  });

  it('finds one changed bit, and ends with status 3', () => {
    const run = copyOfRun();
    damage(run, 'step-00000004', 'optimizer.safetensors');
    const { status, stdout, stderr } = hadal('verify', run);
    expect(status).toBe(3);
    expect(stdout).toMatch(/^damaged {2}step-00000004: .*optimizer\.safetensors unchanged/m);
    expect(stdout.match(/^whole /gm)).toHaveLength(4);
    expect(stderr).toMatch(/1 of 5 are damaged; train --resume takes/);
    const lines = hadal('verify', run, '--json')
      .stdout.trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    expect(lines[0].checkpoints[1]).toMatchObject({ damage: expect.stringContaining('another checksum') });
    expect(lines[1].error).toMatchObject({ code: 'HADAL_ERR_CHECKPOINT', exitStatus: 3 });
  });

  it('finds a checkpoint without its manifest', () => {
    const run = copyOfRun();
    rmSync(join(run, 'checkpoints/step-00000004/manifest.json'));
    expect(hadal('verify', run).status).toBe(3);
    expect(hadal('verify', join(run, 'checkpoints/step-00000004')).status).toBe(3);
  });
});

describe('prune', () => {
  it('says what it would delete, then deletes it', () => {
    const run = copyOfRun();
    const dry = hadal('prune', run, '--keep', '1', '--best', '1', '--dry-run');
    expect([dry.status, checkpointsOf(run)]).toEqual([0, checkpointsOf(original.out)]);
    const told = dry.stdout
      .trimEnd()
      .split('\n')
      .map((line) => line.replace('would delete ', ''));
    const real = hadal('prune', run, '--keep', '1', '--best', '1', '--json');
    expect(JSON.parse(real.stdout)).toEqual({ run, keep: 1, best: 1, dryRun: false, removed: told });
    expect(told).toHaveLength(3);
    // Of those that were evaluated, the better one.
    const losses = [2, 4].map((step) => {
      const state = readFileSync(join(original.out, `checkpoints/step-0000000${step}/state.json`), 'utf8');
      return { step, evalLoss: JSON.parse(state).evalLoss as number };
    });
    const best = losses.sort((a, b) => a.evalLoss - b.evalLoss)[0]?.step;
    expect(checkpointsOf(run)).toEqual([`step-0000000${best}`, 'step-00000005']);
    expect(hadal('prune', run).stdout).toBe('nothing to delete\n');
    expect(readdirSync(run)).not.toContain('run.lock');
  });

  it('refuses while the run is trained, and where one that would stay is damaged', async () => {
    const run = copyOfRun();
    using directory = await RunDirectory.open(run, { resume: true });
    const locked = hadal('prune', run, '--keep', '1');
    expect([locked.status, locked.stderr]).toEqual([2, expect.stringContaining(`process ${process.pid} trains there`)]);
    directory.dispose();
    damage(run, 'step-00000005', 'model.safetensors');
    const damaged = hadal('prune', run, '--keep', '1');
    expect([damaged.status, damaged.stderr]).toEqual([
      3,
      expect.stringMatching(/step-00000005 is damaged and nothing/),
    ]);
    expect(checkpointsOf(run)).toEqual(checkpointsOf(original.out));
  });
});
