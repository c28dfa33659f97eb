// The long form, ten kills of a longer run, is `npm run accept -- kill-resume`.
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
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
    await first.until(() => first.lines.includes('step 6'));
    expect(await first.kill()).toBe('SIGKILL');
    expect(existsSync(join(killed.out, 'run.lock'))).toBe(true);

    const second = new Child(killed);
    await second.until(() => second.lines.includes('step 9') && unfinished().length > 0);
    expect(await second.kill()).toBe('SIGKILL');
    expect(second.lines).toContain('start 4');

    const events = await runAll(killed);
    expect(eventsOf(events, 'start')[0]?.step).toBeGreaterThanOrEqual(8);
    await runAll(whole);
    expect(lastContentsOf(killed.out)).toEqual(lastContentsOf(whole.out));
    expect(metricsOf(killed.out)).toEqual(metricsOf(whole.out));
    expect(readdirSync(killed.out).sort()).toEqual(['checkpoints', 'config.json', 'metrics.jsonl']);
    expect(unfinished()).toEqual([]);
  });
});
