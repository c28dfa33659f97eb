// Whole training on the simulated GPU gives what the processor gives. Twenty steps of each: npm run accept -- cuda-train.
import { afterAll, describe, expect, it } from 'vitest';
import { loadAddon } from '../../src/addon/addon.js';
import { eventsOf, RunFolder, runAll } from './runs.js';

const folder = new RunFolder();
afterAll(() => folder.remove());

const steps = 6;

async function losses(device: string, dtype: 'fp32' | 'bf16' | 'fp16') {
  const events = await runAll({
    ...folder.options({ steps, evaluation: { every: steps, batches: 2 }, checkpoint: { every: 0 } }),
    ...{ device, dtype },
  });
  const [start] = eventsOf(events, 'start');
  expect(start).toMatchObject({ device, dtype });
  return eventsOf(events, 'step').map(({ loss, lossScale, skipped }) => ({ loss, lossScale, skipped }));
}

describe.skipIf(!loadAddon().backend('cuda-sim').isBuilt)('training on the simulated GPU', () => {
  it.each([
    ['fp32', 1e-5],
    ['bf16', 1e-2],
    ['fp16', 1e-2],
  ] as const)('in %s has the losses of the processor within %d', async (dtype, allowed) => {
    const [expected, got] = [await losses('cpu', dtype), await losses('cuda-sim', dtype)];
    expect(got).toHaveLength(steps);
    for (const [i, { loss }] of expected.entries()) {
      expect(Math.abs((got[i]?.loss as number) - loss) / loss, `step ${i + 1}`).toBeLessThan(allowed);
    }
    // The same updates were skipped, and the loss was scaled alike.
    expect(got.map(({ loss, ...others }) => others)).toEqual(expected.map(({ loss, ...others }) => others));
    if (dtype === 'fp16') expect(got[0]?.lossScale).toBeGreaterThan(1);
  });
});
