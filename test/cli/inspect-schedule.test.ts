import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

const main = new URL('../../dist/cli/main.js', import.meta.url).pathname;
const hadal = async (...args: string[]) => (await promisify(execFile)(process.execPath, [main, ...args])).stdout;

describe('hadal inspect --schedule', () => {
  let dir = '';
  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'hadal-schedule-'));
  });
  afterAll(() => rm(dir, { recursive: true }));

  it('plots the learning rate and lists what changes', async () => {
    const out = await hadal('inspect', 'deepseek-v3', '--schedule');
    const lines = out.split('\n');
    expect(lines[0]).toContain('240,000 updates, at most 2.20e-4');
    expect(
      lines
        .slice(1, 9)
        .join('')
        .replaceAll(/[ ▁▂▃▄▅▆▇█]/g, ''),
    ).toBe('');
    expect(lines[8]?.length).toBe(64);
    const rows = lines
      .slice(11)
      .filter(Boolean)
      .map((line) => line.trim().split(/\s+/));
    expect(rows[0]).toEqual(['1', '1.100e-7', '3,072', '0.3', '0.001']);
    expect(rows.at(-1)).toEqual(['240,000', '7.300e-6', '15,360', '0.1', '0']);
  });

  it('gives every update in JSON, of a configuration file with fields set', async () => {
    const file = join(dir, 'run.json');
    await writeFile(file, JSON.stringify({ preset: 'test', steps: 8, optimizer: { lr: 1, warmupSteps: 2 } }));
    const shape = 'optimizer.schedule.shape=constant';
    const { steps, values } = JSON.parse(await hadal('inspect', file, '--schedule', '--json', '--set', shape));
    expect(steps).toBe(8);
    expect(values.map(({ lr }: { lr: number }) => lr)).toEqual([0.5, 1, 1, 1, 1, 1, 1, 1]);
    expect(values.map(({ step }: { step: number }) => step)).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
  });
});
