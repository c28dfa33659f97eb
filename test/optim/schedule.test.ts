import { describe, expect, it } from 'vitest';
import { cosineLr } from '../../src/optim/schedule.js';

const schedule = { lr: 0.8, minLrRatio: 0.25, warmupSteps: 4, steps: 24 };
const curve = (change: Partial<typeof schedule> = {}) => {
  const all = { ...schedule, ...change };
  return Array.from({ length: all.steps }, (_, step) => cosineLr(all, step));
};

describe('cosineLr', () => {
  it('rises by equal parts to the peak, which the last warm-up step has', () => {
    expect(curve().slice(0, 5)).toEqual([0.2, 0.4, 0.8 * 0.75, 0.8, 0.8].map((lr) => expect.closeTo(lr, 12)));
  });

  it('follows half a cosine from the peak to its share', () => {
    // A quarter, a half and three quarters of the way from 4 to 24; cos 45° = √½.
    const at = (step: number) => cosineLr(schedule, step);
    expect(at(9)).toBeCloseTo(0.2 + 0.6 * (0.5 + Math.SQRT1_2 / 2), 12);
    expect(at(14)).toBeCloseTo(0.2 + 0.3, 12);
    expect(at(19)).toBeCloseTo(0.2 + 0.6 * (0.5 - Math.SQRT1_2 / 2), 12);
    expect(at(24)).toBeCloseTo(0.2, 12);
  });

  it('falls from step to step after warm-up and never below its share, also beyond the end', () => {
    const lrs = curve();
    for (let step = 5; step < lrs.length; step++) expect(lrs[step]).toBeLessThan(lrs[step - 1] as number);
    for (const step of [24, 25, 1000]) expect(cosineLr(schedule, step)).toBeCloseTo(0.2, 12);
  });

  it('stays within 0 and the peak for any lengths', () => {
    for (const warmupSteps of [0, 1, 5, 6, 50]) {
      for (const minLrRatio of [0, 1]) {
        for (const lr of curve({ warmupSteps, minLrRatio, steps: 6 })) {
          expect(lr).toBeGreaterThan(0);
          expect(lr).toBeLessThan(0.8 + 1e-12);
        }
      }
    }
    expect(curve({ warmupSteps: 0 })[0]).toBe(0.8);
    expect(new Set(curve({ warmupSteps: 0, minLrRatio: 1 }))).toEqual(new Set([0.8]));
  });
});
