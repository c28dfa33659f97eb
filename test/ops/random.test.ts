import { expect, it } from 'vitest';
import { gradients } from '../../src/autodiff/gradients.js';
import { Graph } from '../../src/graph/graph.js';
import { dropout, type RandomOptions, randomFill } from '../../src/ops/random.js';
import { sum } from '../../src/ops/reduce.js';
import { describeOp, expectHadalError, runGraph } from '../support/op-case.js';
import { cases, philox } from './random.cases.js';

describeOp('random', cases);

const hex = (words: number[]) => words.map((word) => word.toString(16).padStart(8, '0'));
const ones = 0xffffffff;
const keyed = (seed: number, step: number) => ({ key: { shape: [2], dtype: 'int32' as const, data: [seed, step] } });

it('the reference gives the known answers of Random123', () => {
  expect(hex(philox([0, 0, 0, 0], [0, 0]))).toEqual(['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']);
  expect(hex(philox([ones, ones, ones, ones], [ones, ones]))).toEqual(['408f276d', '41c83b0e', 'a20bc7c6', '6d5451fd']);
});

it('the kernel gives the upper 24 bits of the known answer', async () => {
  const unit = { distribution: 'uniform', stream: 0, mean: 0.5, std: 0.5 / Math.sqrt(3) } as const;
  const [y] = await runGraph(keyed(0, 0), ({ key }) => [randomFill(key!, [4], 'fp32', unit)]);
  expect(hex(Array.from(y!, (v) => v * 2 ** 24)).map((word) => word.slice(2))).toEqual([
    '6627e8',
    'e169c5',
    'bc57ac',
    '9b00db',
  ]);
});

const fill = async (options: RandomOptions, seed = 1, step = 2, count = 100_000) =>
  (await runGraph(keyed(seed, step), ({ key }) => [randomFill(key!, [count], 'fp32', options)]))[0]!;

it.each([
  ['uniform', 1, Math.sqrt(3)],
  ['normal', 1, 6],
  ['truncated-normal', 0.8796, 2],
] as const)('%s numbers have the moments and bounds they should', async (distribution, spread, bound) => {
  const y = await fill({ distribution, stream: 5, mean: 3, std: 2 });
  const z = y.map((v) => (v - 3) / 2);
  const mean = z.reduce((a, b) => a + b) / z.length;
  const std = Math.sqrt(z.reduce((a, b) => a + (b - mean) ** 2, 0) / z.length);
  expect(Math.abs(mean)).toBeLessThan(0.015); // about 5 standard errors
  expect(Math.abs(std - spread)).toBeLessThan(0.015);
  expect(z.every((v) => Math.abs(v) <= bound + 1e-6)).toBe(true);
});

it('seed, step and stream each give other numbers, the same ones the same', async () => {
  const options = { distribution: 'uniform', stream: 5, mean: 0, std: 1 } as const;
  const base = await fill(options, 1, 2, 64);
  expect(await fill(options, 1, 2, 64)).toEqual(base);
  expect((await fill(options, 1, 2, 1000)).subarray(0, 64)).toEqual(base);
  for (const other of [fill(options, 2, 2, 64), fill(options, 1, 3, 64), fill({ ...options, stream: 6 }, 1, 2, 64)]) {
    const equal = (await other).filter((v, i) => v === base[i]).length;
    expect(equal).toBe(0);
  }
});

it('dropout drops the gradients of what it dropped', async () => {
  const x = { shape: [999], dtype: 'fp32' as const, data: new Array(999).fill(1) };
  const [y, dx] = await runGraph({ x, ...keyed(3, 4) }, ({ x, key }) => {
    const y = dropout(x!, key!, { probability: 0.25, stream: 9 });
    return [y, gradients(sum(y, [0]), [x!])[0]!];
  });
  expect(dx).toEqual(y);
  const dropped = y!.filter((v) => v === 0).length;
  expect(dropped).toBeGreaterThan(200);
  expect(dropped).toBeLessThan(300);
});

it('names what does not fit', () => {
  const graph = new Graph();
  const key = graph.input('key', [2], 'int32');
  const x = graph.input('x', [3], 'fp32');
  expectHadalError(() => dropout(x, key, { probability: 1, stream: 0 }), 'HADAL_ERR_USAGE', /below 1, got 1/);
  expectHadalError(() => dropout(x, key, { probability: 0.1, stream: -1 }), 'HADAL_ERR_USAGE', /stream.*got -1/);
  expectHadalError(() => dropout(x, x, { probability: 0.1, stream: 0 }), 'HADAL_ERR_DTYPE', /key of dtype int32/);
});
