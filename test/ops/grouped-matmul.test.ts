import { expect, it } from 'vitest';
import { gradients } from '../../src/autodiff/gradients.js';
import { Graph, type Value } from '../../src/graph/graph.js';
import { multiply } from '../../src/ops/elementwise.js';
import { groupedMatmul } from '../../src/ops/grouped-matmul.js';
import { sum } from '../../src/ops/reduce.js';
import { describeOp, expectHadalError, runGraph } from '../support/op-case.js';
import { cases } from './grouped-matmul.cases.js';

describeOp('grouped-matmul', cases);

const ones = (shape: number[]) => ({
  shape,
  dtype: 'fp32' as const,
  data: new Array<number>(shape.reduce((a, b) => a * b, 1)).fill(1),
});
const int32 = (data: number[]) => ({ shape: [data.length], dtype: 'int32' as const, data });

it.each([
  { offsets: [0, 3, 2], says: /expected offsets\[2\] in 3\.\.5, got 2/ },
  { offsets: [0, 3, 6], says: /expected offsets\[2\] in 3\.\.5, got 6/ },
  { offsets: [-1, 3, 5], says: /expected offsets\[0\] in 0\.\.5, got -1/ },
])('ends the step at offsets $offsets', async ({ offsets, says }) => {
  const run = (build: (x: Value, w: Value, offsets: Value) => Value) =>
    runGraph({ x: ones([5, 3]), w: ones([2, 4, 3]), offsets: int32(offsets) }, ({ x, w, offsets }) => [
      build(x as Value, w as Value, offsets as Value),
    ]);
  const failure = expect.objectContaining({ code: 'HADAL_ERR_RUN', message: expect.stringMatching(says) });
  await expect(run((x, w, at) => groupedMatmul(x, w, at, { transposeB: true }))).rejects.toEqual(failure);
  await expect(
    run((x, w, at) => {
      const y = groupedMatmul(x, w, at, { transposeB: true });
      return gradients(sum(y, [0, 1]), [w])[0] as Value;
    }),
  ).rejects.toEqual(failure);
});

it('leaves rows outside of all groups out of the gradients', async () => {
  const inputs = { x: ones([5, 2]), w: ones([2, 2, 2]), offsets: int32([1, 2, 4]) };
  inputs.x.data = [Number.NaN, Number.NaN, 1, 2, 3, 4, 5, 6, Number.NaN, Number.NaN];
  const [dw] = await runGraph(inputs, ({ x, w, offsets }) => {
    const y = groupedMatmul(x as Value, w as Value, offsets as Value, { transposeB: false });
    return gradients(sum(y, [0, 1]), [w as Value]);
  });
  expect([...(dw as Float64Array)]).toEqual([1, 1, 2, 2, 8, 8, 10, 10]);
});

it('has gradients of gradients', async () => {
  // f = Σ y², its gradient by w times a direction v, differentiated by x: compared with differences of the gradient.
  const x = { shape: [4, 2], dtype: 'fp32' as const, data: [0.5, -1, 0.25, 2, 1, 1, -0.5, 0.75] };
  const w = { shape: [2, 2, 3], dtype: 'fp32' as const, data: [1, 0.5, -1, 2, 0.25, 1, -0.5, 1, 0, 0.75, 1, -2] };
  const inputs = { x, w, offsets: int32([0, 3, 4]) };
  const slope = ({ x, w, offsets }: Record<string, Value>) => {
    const y = groupedMatmul(x as Value, w as Value, offsets as Value);
    const dw = gradients(sum(multiply(y, y), [0, 1]), [w as Value])[0] as Value;
    return sum(multiply(dw, w as Value), [0, 1, 2]);
  };
  // ⟨∂f/∂w, w⟩ = 2f, because f is homogeneous of degree 2 in w; so its gradient by x is twice that of f.
  const [second, first] = await runGraph(inputs, (values) => {
    const y = groupedMatmul(values.x as Value, values.w as Value, values.offsets as Value);
    const f = sum(multiply(y, y), [0, 1]);
    return [gradients(slope(values), [values.x as Value])[0] as Value, gradients(f, [values.x as Value])[0] as Value];
  });
  for (const [i, g] of (first as Float64Array).entries()) expect(second?.[i]).toBeCloseTo(2 * g, 4);
  expect(Math.max(...(first as Float64Array))).toBeGreaterThan(1);
});

it('refuses shapes and dtypes that do not fit', () => {
  const graph = new Graph();
  const x = graph.input('x', [5, 3], 'fp32');
  const w = graph.input('w', [2, 4, 3], 'fp32');
  const offsets = graph.input('offsets', [3], 'int32');
  expectHadalError(
    () => groupedMatmul(x, w, offsets),
    'HADAL_ERR_SHAPE',
    /expected w of shape \[\?, 3, \?\], got fp32 \[2, 4, 3\]/,
  );
  const short = graph.input('short', [2], 'int32');
  expectHadalError(
    () => groupedMatmul(x, w, short, { transposeB: true }),
    'HADAL_ERR_SHAPE',
    /expected offsets of shape \[3\]/,
  );
  const floats = graph.input('floats', [3], 'fp32');
  expectHadalError(
    () => groupedMatmul(x, w, floats, { transposeB: true }),
    'HADAL_ERR_DTYPE',
    /expected offsets of dtype int32/,
  );
});
