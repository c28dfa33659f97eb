// The long forms are `npm run accept -- kill-resume` and `npm run accept -- kill-saving`.
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { verifyManifest } from '../../src/formats/manifest.js';
import { Child } from './child.js';
import { checkpointsOf, eventsOf, lastContentsOf, metricsOf, RunFolder, runAll } from './runs.js';

const folder = new RunFolder();
afterAll(() => folder.remove());

describe('a process that is killed', () => {
  const common = { steps: 40, checkpoint: { every: 4, keep: 2 }, evaluation: { every: 10, batches: 2 } };

  it('goes on where its last checkpoint stands, also from amidst writing one, bit for bit', async () => {
    const whole = folder.options(common);
    const killed = { ...folder.options(common), resume: true };
    const unfinished = () => checkpointsOf(killed.out).filter((name) => name.includes('.tmp-'));

    const first = new Child(killed);
    await first.until(() => first.lines.includes('checkpoint 4'));
    expect(await first.kill()).toBe('SIGKILL');
    expect(existsSync(join(killed.out, 'run.lock'))).toBe(true);

    const second = new Child(killed);
    await second.until(() => second.lines.includes('checkpoint 8') && unfinished().length > 0);
    expect(await second.kill()).toBe('SIGKILL');
    const started = second.lines.find((line) => line.startsWith('start')) ?? '';
    expect(Number(started.split(' ')[1])).toBeGreaterThanOrEqual(4);

    const events = await runAll(killed);
    expect(eventsOf(events, 'start')[0]?.step).toBeGreaterThanOrEqual(8);
    await runAll(whole);
    expect(lastContentsOf(killed.out)).toEqual(lastContentsOf(whole.out));
    expect(metricsOf(killed.out)).toEqual(metricsOf(whole.out));
    expect(readdirSync(killed.out).sort()).toEqual(['checkpoints', 'config.json', 'metrics.jsonl']);
    expect(unfinished()).toEqual([]);
  });

  it('three times amidst saving finds the newest whole checkpoint each time, bit for bit', async () => {
    const often = { steps: 20, checkpoint: { every: 1, keep: 3, best: 1 }, evaluation: { every: 4, batches: 1 } };
    const whole = folder.options(often);
    const killed = { ...folder.options(often), resume: true };
    const named = (pattern: RegExp) => checkpointsOf(killed.out).filter((name) => pattern.test(name));
    let newest = 'step-00000000';
    for (const delayMs of [0, 4, 16]) {
      const child = new Child(killed);
      await child.until(() => child.lines.some((line) => line.startsWith('checkpoint')));
      await child.until(() => named(/\.tmp-/).length > 0);
      await new Promise((resolve) => setTimeout(resolve, delayMs));
      expect(await child.kill()).toBe('SIGKILL');
      expect(child.lines).toContain(`start ${Number(newest.slice('step-'.length))}`);
      newest = named(/^step-\d{8}$/).at(-1) as string;
      await verifyManifest(join(killed.out, 'checkpoints', newest));
    }
    const events = await runAll(killed);
    expect(eventsOf(events, 'start')[0]).toMatchObject({ step: Number(newest.slice('step-'.length)), notes: [] });
    await runAll(whole);
    expect(lastContentsOf(killed.out)).toEqual(lastContentsOf(whole.out));
    expect(metricsOf(killed.out)).toEqual(metricsOf(whole.out));
    expect(checkpointsOf(killed.out)).toEqual(checkpointsOf(whole.out));
  });
});
