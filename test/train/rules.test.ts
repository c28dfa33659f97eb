import { describe, expect, it } from 'vitest';
import { describeFinding, type Finding, type Metric, type Rule, Rules } from '../../src/train/rules.js';
import { watchSchema } from '../../src/train/watch-schema.js';

const rule = (fields: Partial<Rule> = {}): Rule => ({
  metric: 'gradNorm',
  above: 10,
  action: 'warn',
  factor: 0.5,
  ...fields,
});

/** Steps at which the rule applies, of values a step. */
function appliesAt(given: Rule, values: readonly (number | null)[], msAStep = 0): number[] {
  let ms = 0;
  const rules = new Rules([given]);
  return values.flatMap((value, i) => {
    ms += msAStep;
    const found = rules.check(i + 1, () => (value === null ? null : { value }), ms);
    return found.length > 0 ? [i + 1] : [];
  });
}

describe('a rule', () => {
  it('without an interval applies when its condition begins to hold', () => {
    expect(appliesAt(rule(), [1, 11, 12, 9, 10, 11])).toEqual([2, 6]);
    expect(appliesAt(rule({ above: undefined, below: 5 }), [6, 4, 3, 5, 4])).toEqual([2, 5]);
    expect(appliesAt(rule({ below: 5 }), [6, 4, 11, 7, 11])).toEqual([2, 5]);
  });

  it('with an interval applies at each look', () => {
    expect(appliesAt(rule({ everySteps: 2 }), [11, 11, 11, 11, 1, 1])).toEqual([2, 4]);
    expect(appliesAt(rule({ everySeconds: 60 }), [11, 11, 11, 11, 11], 40_000)).toEqual([1, 3, 5]);
  });

  it('takes what is no number for beyond its bounds, and leaves alone what was not measured', () => {
    expect(appliesAt(rule(), [Number.NaN])).toEqual([1]);
    expect(appliesAt(rule(), [Number.POSITIVE_INFINITY])).toEqual([1]);
    expect(appliesAt(rule(), [11, null, 11])).toEqual([1]);
  });

  it('holds anew after the run went back', () => {
    const rules = new Rules([rule()]);
    const check = () => rules.check(1, () => ({ value: 11 })).length;
    expect([check(), check()]).toEqual([1, 0]);
    rules.goOn([]);
    expect(check()).toBe(1);
  });
});

it('several rules are told in their order, each of its own measure', () => {
  const rules = new Rules([rule({ metric: 'memory', above: 0.9 }), rule(), rule({ metric: 'loss', above: 1 })]);
  const values: Partial<Record<Metric, number>> = { memory: 0.95, gradNorm: 2, loss: 3 };
  const found = rules.check(1, (metric) => ({ value: values[metric] as number }));
  expect(found.map(({ metric, value }) => [metric, value])).toEqual([
    ['memory', 0.95],
    ['loss', 3],
  ]);
});

it('the limit of skipping is the least of the rules that skip', () => {
  expect(new Rules([rule(), rule({ action: 'skip', above: 7 }), rule({ action: 'skip', above: 5 })]).skipAbove).toBe(5);
  expect(new Rules([rule()]).skipAbove).toBe(Number.POSITIVE_INFINITY);
});

describe('findings in words', () => {
  const finding: Finding = {
    metric: 'gradNorm',
    action: 'warn',
    bound: 'above',
    limit: 10,
    factor: 0.5,
    value: 12.34567,
  };
  it.each([
    [{}, 'gradient norm 12.35 is above 10'],
    [
      { metric: 'activationRange', where: 'model.layers.1', action: 'lowerLr' },
      'activation range 12.35 of model.layers.1 is above 10; the learning rate is multiplied by 0.5',
    ],
    [
      { metric: 'lossScale', bound: 'below', action: 'stop', value: 1e-3 },
      'loss scale 0.001 is below 10; the run ends',
    ],
    [{ metric: 'lossSpike', action: 'rollback' }, 'loss spike 12.35 is above 10; back to the last checkpoint'],
    [{ action: 'skip' }, 'gradient norm 12.35 is above 10; the update is left out'],
  ] satisfies [Partial<Finding>, string][])('%j', (change, words) => {
    expect(describeFinding({ ...finding, ...change })).toBe(words);
  });
});

describe('the configuration', () => {
  const refusal = (given: object) => {
    const parsed = watchSchema.safeParse({ rules: [given] });
    return parsed.success ? null : parsed.error.issues.map(({ path, message }) => [path.join('.'), message]);
  };
  it('warns of norms, activations and memory unless told otherwise', () => {
    const { rules, activationsEvery, debugNumerics } = watchSchema.parse({});
    expect(rules.map(({ metric, above, action }) => [metric, above, action])).toEqual([
      ['gradNorm', 10, 'warn'],
      ['activationRange', 15, 'warn'],
      ['memory', 0.9, 'warn'],
    ]);
    expect([rules[2]?.everySeconds, activationsEvery, debugNumerics]).toEqual([60, 100, false]);
  });
  it('refuses a rule without bounds, and skipping of anything but the norm', () => {
    expect(refusal({ metric: 'loss', action: 'warn' })).toEqual([['rules.0.above', "a rule with 'above' or 'below'"]]);
    // The program itself skips, at each update, by the upper limit alone.
    for (const more of [{ metric: 'loss' }, { below: 1 }, { everySteps: 10 }, { everySeconds: 60 }]) {
      expect(refusal({ metric: 'gradNorm', above: 3, action: 'skip', ...more }), JSON.stringify(more)).toEqual([
        ['rules.0.action', "'skip' only of metric 'gradNorm' with 'above' alone, looked at each update"],
      ]);
    }
    expect(refusal({ metric: 'gradNorm', above: 3, action: 'skip' })).toBeNull();
  });
});
