import { expect, it } from 'vitest';
import { gradients } from '../../src/autodiff/gradients.js';
import { Graph } from '../../src/graph/graph.js';
import { square } from '../../src/ops/elementwise.js';
import { sum } from '../../src/ops/reduce.js';
import { softmax } from '../../src/ops/softmax.js';
import { describeOp, expectHadalError, runGraph } from '../support/op-case.js';
import { cases } from './softmax.cases.js';

describeOp('softmax', cases);

it('a masked row gives zeros and zero gradients, a NaN stays visible', async () => {
  const data = [...new Array(5).fill(Number.NEGATIVE_INFINITY), 1, 2, Number.NaN, 4, 5];
  const x = { shape: [2, 5], dtype: 'fp32' as const, data };
  const [y, dx] = await runGraph({ x }, ({ x }) => {
    const y = softmax(x!);
    return [y, ...gradients(sum(square(y), [0, 1]), [x!])];
  });
  expect(Array.from(y!.subarray(0, 5))).toEqual([0, 0, 0, 0, 0]);
  expect(Array.from(dx!.subarray(0, 5), Math.abs)).toEqual([0, 0, 0, 0, 0]);
  expect(y!.subarray(5).some(Number.isNaN)).toBe(true);
});

it('names what does not fit', () => {
  const graph = new Graph();
  expectHadalError(() => softmax(graph.input('i', [3], 'int32')), 'HADAL_ERR_DTYPE', /x of dtype float.*int32/);
  expectHadalError(() => softmax(graph.input('none', [3, 0], 'fp32')), 'HADAL_ERR_SHAPE', /1 or more.*\[3, 0\]/);
});
