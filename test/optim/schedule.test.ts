import { describe, expect, it } from 'vitest';
import { type LearningRateSchedule, learningRate, microBatches, valueAt } from '../../src/optim/schedule.js';

type Shape = LearningRateSchedule['schedule']['shape'];

const shaped = (
  shape: Shape,
  how: Partial<LearningRateSchedule['schedule']> = {},
  change: Partial<LearningRateSchedule> = {},
): LearningRateSchedule => ({
  lr: 0.8,
  minLrRatio: 0.25,
  warmupSteps: 4,
  warmupShare: null,
  schedule: { shape, power: 1, decayShare: 0.2, decay: 'linear', milestones: [], ...how },
  steps: 24,
  ...change,
});
const curve = (schedule: LearningRateSchedule) =>
  Array.from({ length: schedule.steps }, (_, step) => learningRate(schedule, step));

const shapes = ['constant', 'cosine', 'polynomial', 'warmup-stable-decay', 'deepseek-v3', 'step'] as const;

describe('warm-up', () => {
  it.each(shapes)('rises by equal parts to the peak, which the last of its steps has: %s', (shape) => {
    expect(curve(shaped(shape)).slice(0, 4)).toEqual([0.2, 0.4, 0.8 * 0.75, 0.8].map((lr) => expect.closeTo(lr, 12)));
  });

  it('can be given as a share of the run', () => {
    const share = shaped('constant', {}, { warmupShare: 0.25, warmupSteps: 1000 });
    expect(curve(share)).toEqual(curve(shaped('constant', {}, { warmupSteps: 6 })));
  });
});

describe('cosine', () => {
  it('follows half a cosine from the peak to its share', () => {
    // A quarter, a half and three quarters of the way from 4 to 24; cos 45° = √½.
    const at = (step: number) => learningRate(shaped('cosine'), step);
    expect(at(9)).toBeCloseTo(0.2 + 0.6 * (0.5 + Math.SQRT1_2 / 2), 12);
    expect(at(14)).toBeCloseTo(0.2 + 0.3, 12);
    expect(at(19)).toBeCloseTo(0.2 + 0.6 * (0.5 - Math.SQRT1_2 / 2), 12);
    expect(at(24)).toBeCloseTo(0.2, 12);
  });

  it('falls from step to step after warm-up and never below its share, also beyond the end', () => {
    const lrs = curve(shaped('cosine'));
    for (let step = 5; step < lrs.length; step++) expect(lrs[step]).toBeLessThan(lrs[step - 1] as number);
    for (const step of [24, 25, 1000]) expect(learningRate(shaped('cosine'), step)).toBeCloseTo(0.2, 12);
  });
});

describe('the other shapes', () => {
  it('constant stays at the peak', () => {
    expect(new Set(curve(shaped('constant')).slice(4))).toEqual(new Set([0.8]));
  });

  it('polynomial falls by the power of what is left', () => {
    expect(learningRate(shaped('polynomial'), 14)).toBeCloseTo(0.2 + 0.6 * 0.5, 12);
    expect(learningRate(shaped('polynomial', { power: 2 }), 14)).toBeCloseTo(0.2 + 0.6 * 0.25, 12);
  });

  it.each([
    ['linear', 0.5],
    ['cosine', 0.5],
    ['sqrt', 1 - Math.SQRT1_2],
  ] as const)('warmup-stable-decay holds the peak, then comes down: %s', (decay, half) => {
    const at = (step: number) => learningRate(shaped('warmup-stable-decay', { decay }), step);
    expect(at(19)).toBe(0.8);
    expect(at(22)).toBeCloseTo(0.2 + 0.6 * half, 12); // half of the last four of twenty
    expect(at(24)).toBeCloseTo(0.2, 12);
  });

  it('deepseek-v3 has the plateaus of the paper at its tokens', () => {
    const schedule = shaped('deepseek-v3', {}, { steps: 14_800, lr: 2.2e-4, warmupSteps: 2 });
    expect(learningRate(schedule, 9_999)).toBe(2.2e-4);
    expect(learningRate(schedule, 12_150)).toBeCloseTo((2.2e-4 + 2.2e-5) / 2, 12);
    expect(learningRate(schedule, 14_300)).toBeCloseTo(2.2e-5, 12);
    expect(learningRate(schedule, 14_632)).toBeCloseTo(2.2e-5, 12);
    expect(learningRate(schedule, 14_634)).toBeCloseTo(7.3e-6, 12);
  });

  it('step takes the last milestone that was reached', () => {
    const milestones = [
      { from: 0.5, value: 0.1 },
      { from: 0.75, value: 0.01 },
    ];
    const lrs = curve(shaped('step', { milestones }));
    expect([lrs[11], lrs[12], lrs[17], lrs[18]]).toEqual([0.8, 0.8 * 0.1, 0.8 * 0.1, 0.8 * 0.01]);
  });

  it.each(shapes)('%s stays within 0 and the peak for any lengths', (shape) => {
    for (const warmupSteps of [0, 1, 5, 6, 50]) {
      for (const minLrRatio of [0, 1]) {
        for (const lr of curve(shaped(shape, {}, { warmupSteps, minLrRatio, steps: 6 }))) {
          expect(lr).toBeGreaterThan(0);
          expect(lr).toBeLessThan(0.8 + 1e-12);
        }
      }
    }
    expect(learningRate(shaped(shape, {}, { warmupSteps: 0 }), 0)).toBe(0.8);
  });
});

describe('valueAt', () => {
  it('gives the value of the last milestone that was reached', () => {
    const scheduled = [
      { from: 0, value: 0.3 },
      { from: 0.7, value: 0.1 },
    ];
    expect([0, 0.69, 0.7, 1].map((progress) => valueAt(scheduled, progress))).toEqual([0.3, 0.3, 0.1, 0.1]);
    expect(valueAt(0.25, 0.5)).toBe(0.25);
    expect(valueAt([{ from: 0.5, value: 2 }], 0)).toBe(2);
  });
});

describe('microBatches', () => {
  const rows = { batch: 32, micro: 4 };

  it('grows in whole micro-batches from the first to all rows', () => {
    const ramp = { from: 8, steps: 12 };
    expect(Array.from({ length: 14 }, (_, step) => microBatches(ramp, rows, step))).toEqual([
      2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8,
    ]);
  });

  it('is all of them without a ramp, and never none', () => {
    expect(microBatches(null, rows, 0)).toBe(8);
    expect(microBatches({ from: 1, steps: 100 }, rows, 0)).toBe(1);
    expect(microBatches({ from: 1000, steps: 100 }, rows, 0)).toBe(8);
  });
});
