// Products in emulated fp8 against PyTorch's float8_e4m3fn; ../ops/quantize-tiles-golden.py made the golden.
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { gradients } from '../../src/autodiff/gradients.js';
import type { DType } from '../../src/core/dtype.js';
import { Graph, type Value } from '../../src/graph/graph.js';
import { verify } from '../../src/graph/verify.js';
import { cast, multiply } from '../../src/ops/elementwise.js';
import { groupedMatmul } from '../../src/ops/grouped-matmul.js';
import { matmul } from '../../src/ops/matmul.js';
import { sum } from '../../src/ops/reduce.js';
import { bound, reshape, transpose } from '../../src/ops/shape.js';
import { lower } from '../../src/passes/lower.js';
import { narrow, type Precision } from '../../src/passes/narrow.js';
import { runPasses } from '../../src/passes/pipeline.js';
import { plan } from '../../src/runtime/plan.js';
import type { Tensor } from '../../src/runtime/tensor.js';
import { relativeNorm } from '../support/compare.js';
import { fromFloats } from '../support/float-bytes.js';
import { testDevice } from '../support/op-case.js';
import { uniformPrecision } from '../support/precision.js';
import { Rng } from '../support/rng.js';

type Results = Record<'y' | 'dx' | 'dw', number[]>;
const golden = JSON.parse(
  readFileSync(new URL('../ops/quantize-tiles-golden.json', import.meta.url), 'utf8'),
) as Record<'x' | 'w' | 'dy', number[][]> & Record<'float' | 'power-of-two', Results>;

const inFp8 = (scale: Precision['fp8']['scale']): Precision => ({ ...uniformPrecision('fp8'), fp8: { scale } });

interface Given {
  shape: number[];
  dtype?: DType;
  data: ArrayLike<number>;
}

/** y of a product as a forward pass in fp8, and the gradients of Σ y · dy by x and w. */
async function run(
  { x, w, dy, ...others }: Record<'x' | 'w' | 'dy', Given> & Record<string, Given>,
  product: (values: Record<string, Value>) => Value,
  precision: Precision,
): Promise<Record<'y' | 'dx' | 'dw', Float32Array>> {
  const traced = new Graph();
  const values: Record<string, Value> = { w: traced.slot('w', w.shape, 'fp32') };
  const inputs = { x, dy, ...others };
  for (const [name, { shape, dtype = 'fp32' }] of Object.entries(inputs))
    values[name] = traced.input(name, shape, dtype);
  const y = product(values);
  traced.output('y', y);
  traced.output(
    'loss',
    reshape(
      sum(
        multiply(cast(y, 'fp32'), values.dy as Value),
        y.shape.map((_, axis) => axis),
      ),
      [1],
    ),
  );
  const graph = narrow(traced, precision);
  const wrt = [graph.inputs.get('x') as Value, graph.slots.get('w') as Value];
  const [dx, dw] = gradients(graph.outputs.get('loss') as Value, wrt);
  graph.output('dx', dx as Value);
  graph.output('dw', dw as Value);
  verify(graph);
  const device = testDevice();
  const program = device.load(plan(runPasses(graph), device.target));
  const slots: Record<string, Tensor> = {};
  for (const { name, shape, dtype } of [...program.slots, ...program.outputs])
    slots[name] ??= device.allocate(shape, dtype);
  await (slots.w as Tensor).write(fromFloats(w.data, 'fp32'));
  const arrays = Object.fromEntries(
    Object.entries(inputs).map(([name, { dtype = 'fp32', data }]) => [name, fromFloats(data, dtype)]),
  );
  await device.run([{ program, slots, inputs: arrays }]);
  const read = (name: string) => (slots[name] as Tensor).toFloat32();
  const results = { y: await read('y'), dx: await read('dx'), dw: await read('dw') };
  for (const tensor of Object.values(slots)) tensor.dispose();
  return results;
}

const sixtyFourths = (rows: number[][]): Given => ({
  shape: [rows.length, (rows[0] as number[]).length],
  data: rows.flat().map((x) => x / 64),
});
const given = { x: sixtyFourths(golden.x), w: sixtyFourths(golden.w), dy: sixtyFourths(golden.dy) };
/** The numbers that the golden has. */
const some = (all: Float32Array) => all.filter((_, i) => i % 37 === 0);

describe.each(['float', 'power-of-two'] as const)('with scales: %s', (scale) => {
  const expected = golden[scale];
  // y and dx are rounded to bf16, half of whose last place is 2^-9; dw is fp32, and nothing of it is rounded before its sums.
  it('a linear layer is PyTorch’s, forward and backward', async () => {
    const product = ({ x, w }: Record<string, Value>) => matmul(x as Value, w as Value, { transposeB: true });
    const { y, dx, dw } = await run(given, product, inFp8(scale));
    expect(relativeNorm(some(y), expected.y)).toBeLessThan(2 ** -9);
    expect(relativeNorm(some(dx), expected.dx)).toBeLessThan(2 ** -9);
    expect(relativeNorm(some(dw), expected.dw)).toBeLessThan(1e-6);
  });

  it('so is one whose weight is [in, out], and whose rows are of several sequences', async () => {
    const [rows, columns] = given.x.shape as [number, number];
    const folded = { ...given, x: { ...given.x, shape: [2, rows / 2, columns] } };
    const wide = { ...folded, dy: { ...given.dy, shape: [2, rows / 2, given.dy.shape[1] as number] } };
    // Made of a weight alone, it is a weight.
    const product = ({ x, w }: Record<string, Value>) => matmul(x as Value, transpose(w as Value, [1, 0]));
    const { y, dx, dw } = await run(wide, product, inFp8(scale));
    expect(relativeNorm(some(y), expected.y)).toBeLessThan(2 ** -9);
    expect(relativeNorm(some(dx), expected.dx)).toBeLessThan(2 ** -9);
    expect(relativeNorm(some(dw), expected.dw)).toBeLessThan(1e-6);
  });

  it('experts compute as a linear layer does on the rows of each', async () => {
    const [rows, k, n] = [260, 36, 20];
    const ends = [0, 129, 129, 250];
    const rng = new Rng('experts');
    const numbers = (size: number) => Float32Array.from({ length: size }, () => rng.normal());
    const [x, w, dy] = [numbers(rows * k), numbers(3 * n * k), numbers(rows * n)];
    // Rows beyond the last expert's are not in use.
    x.fill(Number.NaN, 250 * k);
    dy.fill(0, 250 * n);
    const found = await run(
      {
        x: { shape: [rows, k], data: x },
        w: { shape: [3, n, k], data: w },
        dy: { shape: [rows, n], data: dy },
        offsets: { shape: [4], dtype: 'int32', data: ends },
        used: { shape: [1], dtype: 'int32', data: [250] },
      },
      (values) => {
        const rowsInUse = bound(values.x as Value, values.used as Value);
        return groupedMatmul(rowsInUse, values.w as Value, values.offsets as Value, { transposeB: true });
      },
      inFp8(scale),
    );
    for (const e of [0, 2]) {
      const [begin, end] = [ends[e] as number, ends[e + 1] as number];
      const part = (data: Float32Array, width: number) => data.subarray(begin * width, end * width);
      const own = await run(
        {
          x: { shape: [end - begin, k], data: part(x, k) },
          w: { shape: [n, k], data: w.subarray(e * n * k, (e + 1) * n * k) },
          dy: { shape: [end - begin, n], data: part(dy, n) },
        },
        (values) => matmul(values.x as Value, values.w as Value, { transposeB: true }),
        inFp8(scale),
      );
      expect(relativeNorm(part(found.y, n), own.y)).toBeLessThan(1e-6);
      expect(relativeNorm(part(found.dx, k), own.dx)).toBeLessThan(1e-6);
      expect(relativeNorm(found.dw.subarray(e * n * k, (e + 1) * n * k), own.dw)).toBeLessThan(1e-6);
    }
    expect(found.dw.subarray(n * k, 2 * n * k).every((g) => g === 0)).toBe(true);
  });
});

it('only products with weights are rounded, and what is left has kernels', () => {
  const graph = new Graph();
  const [x, w] = [graph.input('x', [4, 6], 'fp32'), graph.slot('w', [6, 6], 'fp32')];
  graph.output('y', matmul(matmul(x, w), x, { transposeB: true }));
  const names = (made: Graph) => made.nodes.filter(({ op }) => !op.isSource).map(({ op }) => op.name);
  const made = narrow(graph, uniformPrecision('fp8'));
  expect(names(made)).toEqual(['cast', 'fp8-product', 'cast', 'matmul', 'cast']);
  expect(names(lower(made))).toEqual(['cast', 'quantize-tiles', 'quantize-tiles', 'matmul', 'cast', 'matmul', 'cast']);
});
