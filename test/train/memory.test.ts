import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { loadAddon } from '../../src/addon/addon.js';
import { planMemory } from '../../src/train/memory.js';
import { planPrograms } from '../../src/train/planning.js';
import { eventsOf, RunFolder, runAll, runUntil } from './runs.js';
import { stepConfig, tinyBatch, tinyModel, tinyStepper, updateInputs } from './tiny.js';

const { storageBytes } = loadAddon();
const options = { gradAccumulationSteps: 1, snapshot: false, base: null, budget: null };

describe('planned memory', () => {
  it.each([
    ['fp32', false],
    ['fp32', true],
    ['bf16', false],
    ['fp16', true],
  ] as const)('is what is allocated, to the byte, in %s (accumulating: %s)', async (dtype, accumulates) => {
    const config = stepConfig(2, 16, dtype);
    const plans = await planPrograms(tinyModel(), config, { target: 2, accumulates });
    const { allocated } = planMemory(tinyModel(), plans, options);
    const before = storageBytes().live;
    using run = await tinyStepper(config, { accumulates });
    expect(storageBytes().live - before).toBe(allocated);
    await run.stepper.update([tinyBatch(1, [16, 9], 16)], updateInputs(0));
    await run.stepper.evaluate(tinyBatch(1, [16, 9], 16));
    expect(storageBytes().live - before).toBe(allocated);
  });

  it('is the sum of its kinds; a copy for checkpoints holds weights and optimizer', async () => {
    const plans = await planPrograms(tinyModel(), stepConfig(2, 16, 'bf16'), { target: 2, accumulates: true });
    const table = planMemory(tinyModel(), plans, { ...options, snapshot: true, base: 1000, budget: 5000 });
    const { weights, gradients, optimizer, activations, workspace, buffers, snapshot } = table;
    expect(table.planned).toBe(weights + gradients + optimizer + activations + workspace + buffers + snapshot);
    expect(table).toMatchObject({ base: 1000, budget: 5000, total: table.planned + 1000, snapshot: table.saved });
    // Without rounding to pages, and without the copies in 16 bits.
    expect(table.saved).toBeLessThan(weights + optimizer);
    expect(gradients).toBeGreaterThan(weights / 4);
    const without = planMemory(tinyModel(), plans, options);
    expect(without.snapshot).toBeLessThan(snapshot);
    expect(without.total).toBe(without.planned);
  });

  it('counts more batches where an update has more', async () => {
    const plans = await planPrograms(tinyModel(), stepConfig(2, 16), { target: 2, accumulates: true });
    const of = (gradAccumulationSteps: number) =>
      planMemory(tinyModel(), plans, { ...options, gradAccumulationSteps }).buffers;
    // Tokens, document ids, positions, labels, and two of the MTP module; numbers that come with them are few.
    expect(of(9) - of(8)).toBeGreaterThanOrEqual(2 * 16 * 6 * 4);
    expect(of(9) - of(8)).toBeLessThan(2 * 16 * 6 * 4 + 64);
  });
});

describe('a run with a budget', () => {
  const folder = new RunFolder();
  afterAll(() => folder.remove());

  it('writes down what was decided', async () => {
    const options = folder.options({
      batch: 'auto',
      activationCheckpointing: 'auto',
      memory: { budget: '1GiB' },
      steps: 1,
    });
    // So many rows of a model this small would take as many minutes: it ends before the first step.
    const events = await runUntil({ ...options, seqLen: 64, gradAccumulationSteps: 2 }, ({ type }) => type === 'start');
    const [start] = eventsOf(events, 'start');
    const config = JSON.parse(readFileSync(join(options.out, 'config.json'), 'utf8'));
    expect(config).toMatchObject({
      activationCheckpointing: 'none',
      gradAccumulationSteps: 2,
      memory: { budget: 2 ** 30 },
    });
    expect(config.batch).toBeGreaterThan(100);
    expect(config.batch % 2).toBe(0);
    expect(start?.memory).toMatchObject({ budget: 2 ** 30 });
    expect(start?.notes).toEqual([`memory has room for batch ${config.batch}, activationCheckpointing none`]);
    expect(start?.memory.total).toBeLessThan(2 ** 30);
  });

  it('that is too small is refused before data are prepared', async () => {
    const cache = join(folder.path, 'none');
    const options = folder.options({ data: { sources: ['synthetic'], cache }, memory: { budget: '2MiB' } });
    await expect(runAll(options)).rejects.toMatchObject({
      code: 'HADAL_ERR_MEMORY',
      message: expect.stringMatching(/within 2.00 MiB of memory, this one needs .* the process itself/),
    });
    expect(existsSync(cache)).toBe(false);
  });

  it('that is no size is refused', async () => {
    await expect(runAll(folder.options({ memory: { budget: '2 gigs' } }))).rejects.toMatchObject({
      code: 'HADAL_ERR_CONFIG',
      message: expect.stringContaining("field 'memory.budget'"),
    });
  });
});

// Small twin of `npm run accept -- memory`: whole runs, each in a process of its own.
it.runIf(process.platform === 'linux')('a run takes as much as was planned', () => {
  const accept = fileURLToPath(new URL('../../scripts/accept.mjs', import.meta.url));
  const { stdout, stderr, status } = spawnSync(process.execPath, [accept, 'memory', 'test'], { encoding: 'utf8' });
  expect(stderr).toBe('');
  expect(stdout).toMatch(/^ok .*blocks [\d.]+ MiB planned.*\nok .*resident at most.*\n$/);
  expect(status, stdout).toBe(0);
});
