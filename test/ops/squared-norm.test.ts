import { expect, it } from 'vitest';
import { Graph } from '../../src/graph/graph.js';
import { squaredNorm } from '../../src/ops/squared-norm.js';
import { describeOp, expectHadalError, runGraph } from '../support/op-case.js';
import { Rng } from '../support/rng.js';
import { cases } from './squared-norm.cases.js';

describeOp('squared-norm', cases);

it('keeps its digits over millions of numbers of one size', async () => {
  const data = new Float32Array(3_000_000).fill(0.1);
  const [norm] = await runGraph({ x: { shape: [data.length], dtype: 'fp32', data } }, ({ x }) => [squaredNorm([x!])]);
  expect((norm?.[0] as number) / (data.length * Math.fround(0.1) ** 2)).toBeCloseTo(1, 5);
});

it('lets what is not finite be seen wherever it stands', async () => {
  const rng = new Rng('squared-norm');
  const at = async (place: number, x: number) => {
    const data = Float32Array.from({ length: 20_003 }, (_, i) => (i === place ? x : rng.normal()));
    const inputs = {
      first: { shape: [3], dtype: 'fp32' as const, data: [1, 2, 3] },
      x: { shape: [data.length], dtype: 'fp32' as const, data },
    };
    const [norm] = await runGraph(inputs, ({ first, x }) => [squaredNorm([first!, x!])]);
    return norm?.[0] as number;
  };
  for (const place of [0, 9000, 20_002]) {
    expect(await at(place, Number.NaN)).toBeNaN();
    expect(await at(place, Number.NEGATIVE_INFINITY)).toBe(Number.POSITIVE_INFINITY);
    expect(await at(place, 1e30)).toBe(Number.POSITIVE_INFINITY);
  }
});

it('refuses integers', () => {
  const x = new Graph().input('x', [3], 'int32');
  expectHadalError(() => squaredNorm([x]), 'HADAL_ERR_DTYPE', /x of dtype float, got int32/);
});
