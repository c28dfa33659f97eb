import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import type { OptimizerConfig } from '../../src/optim/optimizer.js';
import { relativeNorm } from '../support/compare.js';
import { Rng } from '../support/rng.js';
import { plainConfig, runUpdates } from './run-updates.js';

type Numbers = Record<string, number[]>;

/** What optimizer-golden.py wrote: the parameters before and after, the gradients of each step, and PyTorch's state. */
interface Golden {
  shapes: Record<string, [number, number]>;
  lr: number;
  weightDecay: number;
  begin: Numbers;
  grads: Numbers[];
  runs: Record<string, { end: Numbers; state: Record<string, Numbers> }>;
}
const golden = JSON.parse(readFileSync(new URL('./optimizer-golden.json', import.meta.url), 'utf8')) as Golden;
const { shapes, lr, weightDecay, begin, grads, runs } = golden;
const parameters = Object.entries(shapes).map(([name, shape]) => {
  return { name, shape, dtype: 'fp32' as const, decay: true };
});

describe('takes the steps that PyTorch takes:', () => {
  const muon = { kind: 'muon', muonLrAdjustment: 'original', momentum: 0.95 } as const;
  const states = { exp_avg: 'adam.m', exp_avg_sq: 'adam.v', momentum_buffer: 'momentum' };
  const table: Record<string, Partial<OptimizerConfig>> = {
    adamw: {},
    sgd: { kind: 'sgd', momentum: 0, nesterov: false },
    'sgd momentum': { kind: 'sgd', nesterov: false },
    'sgd nesterov': { kind: 'sgd' },
    muon,
    'muon matched': { ...muon, muonLrAdjustment: 'match-rms-adamw', newtonSchulzSteps: 3 },
    'muon heavy ball': { ...muon, nesterov: false, momentum: 0.8 },
  };

  it.each(Object.entries(table))('%s', async (name, change) => {
    const config = { ...plainConfig, weightDecay, ...change };
    const slots = (await runUpdates(config, { parameters, begin, grads, lr })).at(-1)!;
    const { end, state } = runs[name]!;
    for (const parameter of Object.keys(shapes)) {
      expect(relativeNorm(slots[parameter]!, end[parameter]!)).toBeLessThan(1e-5);
      for (const [kind, values] of Object.entries(state[parameter]!)) {
        const own = states[kind as keyof typeof states];
        const slot = own === 'momentum' ? `${config.kind}.momentum` : own;
        expect(relativeNorm(slots[`${slot}/${parameter}`]!, values), kind).toBeLessThan(1e-6);
      }
    }
  });

  it.each(['muon', 'muon matched', 'muon heavy ball'])('%s in bf16, no further from the exact ones', async (name) => {
    const config = { ...plainConfig, weightDecay, ...table[name] };
    const slots = (await runUpdates(config, { parameters, begin, grads, lr, productDtype: 'bf16' })).at(-1)!;
    const [exact, rounded] = [runs[name]!.end, runs[`${name} bf16`]!.end];
    for (const parameter of Object.keys(shapes)) {
      const error = (end: ArrayLike<number>) => relativeNorm(end, exact[parameter]!);
      expect(error(slots[parameter]!)).toBeGreaterThan(1e-5);
      expect(error(slots[parameter]!)).toBeLessThan(2 * error(rounded[parameter]!));
    }
  });
});

describe('Muon', () => {
  const shape = [3, 4, 6];
  const rng = new Rng('experts');
  const draw = () => Array.from({ length: 3 * 4 * 6 }, () => rng.normal());
  const stacked = { name: 'experts', shape, dtype: 'fp32' as const, decay: true };
  const given = { begin: draw(), grads: [draw(), draw()] };
  const config: OptimizerConfig = { ...plainConfig, kind: 'muon' };

  it.each([
    ['expert by expert', stacked, 3, [4, 6]],
    [
      'part by part',
      { ...stacked, shape: [12, 6], parts: [{ shape: [2, 6] }, { shape: [2, 6] }, ...fours(2)] },
      6,
      [2, 6],
    ],
    [
      'as a whole where parts differ',
      { ...stacked, shape: [12, 6], parts: [{ shape: [4, 6] }, { shape: [8, 6] }] },
      1,
      [12, 6],
    ],
  ])('makes a stack orthogonal %s', async (_, parameter, count, matrix) => {
    const run = (some: (typeof stacked)[], split: (x: number[]) => Record<string, number[]>) =>
      runUpdates(config, { parameters: some, begin: split(given.begin), grads: given.grads.map(split), lr: 0.02 });
    const [, together] = await run([parameter as typeof stacked], (experts) => ({ experts }));
    const names = Array.from({ length: count }, (_, i) => `${i}`);
    const size = (matrix[0] as number) * (matrix[1] as number);
    const [, apart] = await run(
      names.map((name) => ({ ...stacked, name, shape: matrix })),
      (x) => Object.fromEntries(names.map((name, i) => [name, x.slice(i * size, (i + 1) * size)])),
    );
    expect(
      relativeNorm(
        together!.experts!,
        names.flatMap((name) => [...apart![name]!]),
      ),
    ).toBeLessThan(1e-6);
  });

  it('has steps whose singular values are near 1', async () => {
    const square = { name: 'w', shape: [4, 6], dtype: 'fp32' as const, decay: false };
    const one = { w: new Array(24).fill(0) };
    const grads = [{ w: draw().slice(0, 24) }];
    const still = { ...config, muonLrAdjustment: 'original' as const };
    const [slots] = await runUpdates(still, { parameters: [square], begin: one, grads, lr: 1 });
    const row = (i: number) => Array.from(slots!.w!.slice(6 * i, 6 * i + 6));
    const gram = [0, 1, 2, 3].map((i) =>
      [0, 1, 2, 3].map((j) => row(i).reduce((sum, x, k) => sum + x * row(j)[k]!, 0)),
    );
    const trace = gram.reduce((sum, line, i) => sum + line[i]!, 0);
    expect(trace / 4).toBeGreaterThan(0.5);
    expect(trace / 4).toBeLessThan(1.5);
    for (const [i, line] of gram.entries()) {
      for (const [j, x] of line.entries()) if (i !== j) expect(Math.abs(x)).toBeLessThan(0.3);
    }
  });

  it('leaves a matrix of zeros where it is', async () => {
    const zeros = new Array(72).fill(0);
    const [slots] = await runUpdates(
      { ...config, weightDecay: 0 },
      { parameters: [stacked], begin: { experts: given.begin }, grads: [{ experts: zeros }], lr: 1 },
    );
    expect(Array.from(slots!.experts!)).toEqual(given.begin.map(Math.fround));
  });
});

const fours = (n: number) => [0, 1].flatMap(() => Array.from({ length: n }, () => ({ shape: [2, 6] })));

describe('Lion, by the formula of the paper in float64,', () => {
  const size = 300;
  const rng = new Rng('lion');
  const draw = () => Float64Array.from({ length: size }, () => Math.fround(rng.normal()));
  const parameter = { name: 'w', shape: [15, 20], dtype: 'fp32' as const, decay: true };
  const schedule = { beta1End: 0.5, beta2End: 0.7, power: 2 };

  it.each([
    ['sign', null],
    ['sign', schedule],
    ['root', null],
    ['root', schedule],
  ] as const)('%s, β schedule %o', async (lionVariant, betaSchedule) => {
    const config: OptimizerConfig = { ...plainConfig, kind: 'lion', lionVariant, betaSchedule, steps: 5, eps: 0.01 };
    const first = draw();
    const steps = Array.from({ length: 4 }, draw);
    const given = { parameters: [parameter], begin: { w: first }, grads: steps.map((w) => ({ w })), lr: 0.01 };
    const slots = (await runUpdates(config, { ...given, gradScale: 0.5 })).at(-1)!;
    const [w, m, s] = [Float64Array.from(first), new Float64Array(size), new Float64Array(size)];
    for (const [t, grad] of steps.entries()) {
      const left = betaSchedule ? (1 - t / 5) ** 2 : 1;
      const [beta1, beta2] = [0.5 + (0.9 - 0.5) * left, 0.7 + (0.95 - 0.7) * left];
      for (let i = 0; i < size; i++) {
        const g = 0.5 * grad[i]!;
        const mixed = beta1 * m[i]! + (1 - beta1) * g;
        s[i] = beta2 * s[i]! + (1 - beta2) * g * g;
        m[i] = lionVariant === 'root' ? mixed : beta2 * m[i]! + (1 - beta2) * g;
        const step = lionVariant === 'root' ? Math.sign(mixed) / (Math.sqrt(s[i]!) + 0.01) : Math.sign(mixed);
        w[i] = w[i]! - 0.01 * (step + 0.1 * w[i]!);
      }
    }
    expect(relativeNorm(slots.w!, w)).toBeLessThan(1e-6);
    expect(relativeNorm(slots['lion.m/w']!, m)).toBeLessThan(1e-6);
    if (lionVariant === 'root') expect(relativeNorm(slots['lion.s/w']!, s)).toBeLessThan(1e-6);
    else expect(slots['lion.s/w']).toBeUndefined();
  });
});

describe('an update that is skipped', () => {
  const kinds: Partial<OptimizerConfig>[] = [
    {},
    { betaSchedule: { beta1End: 0.5, power: 1 } },
    { kind: 'lion' },
    { kind: 'lion', lionVariant: 'root' },
    { kind: 'sgd' },
    { kind: 'muon' },
  ];
  it.each(kinds)('leaves every slot as it was: %o', async (change) => {
    const config = { ...plainConfig, ...change, emaDecay: 0.9 };
    const copies = new Map([['wide', { slot: 'copy/wide', dtype: 'bf16' as const }]]);
    const bad = Object.fromEntries(parameters.map(({ name }) => [name, begin[name]!.map(() => Number.NaN)]));
    const run = (all: Record<string, ArrayLike<number>>[], skipped: number[]) =>
      runUpdates(config, { parameters, begin, grads: all, lr, skipped, copies });
    const seen = await run([grads[0]!, bad, grads[1]!], [1]);
    expect(seen[1]).toEqual(seen[0]);
    expect(Object.keys(seen[0]!).length).toBeGreaterThan(7);
    const without = await run([grads[0]!, grads[1]!], []);
    expect(seen[2]).toEqual(without[1]);
  });
});

it('keeps running means of the weights: the first as they are, then min(decay, (n − 1)/(n + 9))', async () => {
  const seen = await runUpdates({ ...plainConfig, emaDecay: 0.15 }, { parameters, begin, grads, lr });
  for (const name of Object.keys(shapes)) {
    let mean = new Float64Array(begin[name]!.length);
    for (const [i, slots] of seen.entries()) {
      const decay = Math.min(0.15, i / (i + 10));
      mean = mean.map((x, j) => decay * x + (1 - decay) * slots[name]![j]!);
      expect(relativeNorm(slots[`ema/${name}`]!, mean)).toBeLessThan(1e-6);
    }
    expect(seen[0]![`ema/${name}`]).toEqual(seen[0]![name]);
  }
});
