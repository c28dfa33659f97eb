import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { gradients } from '../../src/autodiff/gradients.js';
import { Graph } from '../../src/graph/graph.js';
import { multiply } from '../../src/ops/elementwise.js';
import { quantizeTiles } from '../../src/ops/quantize-tiles.js';
import { sum } from '../../src/ops/reduce.js';
import { describeOp, expectHadalError, runGraph } from '../support/op-case.js';
import { cases } from './quantize-tiles.cases.js';

describeOp('quantize-tiles', cases);

const golden = JSON.parse(readFileSync(new URL('quantize-tiles-golden.json', import.meta.url), 'utf8')) as {
  probes: number[];
  rounded: number[];
};

const quantize = async (data: number[], scale: 'float' | 'power-of-two' = 'float', columns = data.length) => {
  const shape = [data.length / columns, columns];
  const [y] = await runGraph({ x: { shape, dtype: 'fp32', data } }, ({ x }) => [
    quantizeTiles(x!, { tile: [1, 128], scale }),
  ]);
  return [...(y as Float64Array)];
};

it('rounds every number as PyTorch does', async () => {
  // Beside 448 the scale is 1.
  const columns = 128;
  const rows = Array.from({ length: Math.ceil(golden.probes.length / 127) }, (_, i) => {
    const part = golden.probes.slice(127 * i, 127 * (i + 1));
    return [448, ...part, ...Array<number>(127 - part.length).fill(0)];
  });
  const y = await quantize(rows.flat(), 'float', columns);
  const got = rows.flatMap((_, i) => y.slice(columns * i + 1, columns * (i + 1))).slice(0, golden.probes.length);
  const unsignedZero = (x: number) => x + 0;
  expect(got.map(unsignedZero)).toEqual(golden.rounded.map(unsignedZero));
});

it('lets what is not finite be seen, and zeros and the least numbers be', async () => {
  expect(await quantize([1, Number.NaN, 448])).toEqual([1, Number.NaN, 448]);
  expect(await quantize([1, Number.POSITIVE_INFINITY, 2])).toEqual([Number.NaN, Number.NaN, Number.NaN]);
  expect(await quantize([0, 0])).toEqual([0, 0]);
  const tiny = 448 * 2 ** -126;
  expect(await quantize([tiny, tiny / 448])).toEqual([tiny, tiny / 448]);
});

it('takes the next power of two as the scale', async () => {
  // 449 / 448 becomes 2: E4M3 numbers from 128 on are 16 apart, of halves of these numbers.
  expect(await quantize([449, 15], 'power-of-two')).toEqual([448, 15]);
  expect(await quantize([448, 15], 'power-of-two')).toEqual([448, 15]);
  expect((await quantize([449, 15]))[0]).toBeCloseTo(449, 4);
});

it('gradients pass straight through', async () => {
  const inputs = {
    x: { shape: [2, 3], dtype: 'fp32' as const, data: [0.11, 2, 3, 4, 5, 6] },
    weight: { shape: [2, 3], dtype: 'fp32' as const, data: [1, -2, 3, 0.3, 0.7, 9] },
  };
  const [dx] = await runGraph(inputs, ({ x, weight }) =>
    gradients(sum(multiply(quantizeTiles(x!, { tile: [1, 128], scale: 'float' }), weight!), [0, 1]), [x!]),
  );
  expect([...(dx as Float64Array)]).toEqual(inputs.weight.data.map(Math.fround));
});

it('refuses groups that do not lie within the rows', async () => {
  const run = (offsets: number[]) =>
    runGraph(
      {
        x: { shape: [4, 2], dtype: 'fp32', data: [1, 2, 3, 4, 5, 6, 7, 8] },
        offsets: { shape: [3], dtype: 'int32', data: offsets },
      },
      ({ x, offsets: given }) => [quantizeTiles(x!, { tile: [128, 1], scale: 'float' }, given)],
    );
  await expect(run([0, 5, 4])).rejects.toThrow(/\[quantize-tiles\] expected offsets\[1\] in 0..4, got 5/);
  await expect(run([-1, 2, 4])).rejects.toThrow(/\[quantize-tiles\] expected offsets\[0\] in 0..4, got -1/);
  await expect(run([0, 3, 2])).rejects.toThrow(/\[quantize-tiles\] expected offsets\[2\] in 3..4, got 2/);
});

it('refuses integers, single rows and rows without known groups', () => {
  const graph = new Graph();
  const options = { tile: [1, 128], scale: 'float' } as const;
  expectHadalError(() => quantizeTiles(graph.input('i', [3, 4], 'int32'), options), 'HADAL_ERR_DTYPE', /float/);
  expectHadalError(() => quantizeTiles(graph.input('x', [3], 'fp32'), options), 'HADAL_ERR_SHAPE', /rank 2/);
});
