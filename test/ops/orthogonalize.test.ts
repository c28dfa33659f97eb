import { expect, it } from 'vitest';
import { Graph } from '../../src/graph/graph.js';
import { orthogonalize } from '../../src/ops/orthogonalize.js';
import { openDevice } from '../../src/runtime/device.js';
import { runKernel } from '../../src/runtime/run-kernel.js';
import { describeOp, expectHadalError, testDevice } from '../support/op-case.js';
import { Rng } from '../support/rng.js';
import { cases } from './orthogonalize.cases.js';

describeOp('orthogonalize', cases);

async function run(x: ArrayLike<number>, rows: number, columns: number, device = testDevice()): Promise<Float32Array> {
  const y = new Float32Array(x.length);
  const batch = x.length / (rows * columns);
  await runKernel(device, 'orthogonalize', { batch, rows, columns }, [Float32Array.from(x), y]);
  return y;
}

/** The greatest difference of yᵀy from the identity. */
function error(y: Float32Array, rows: number, columns: number): number {
  let worst = 0;
  for (let i = 0; i < columns; i++)
    for (let j = 0; j <= i; j++) {
      let dot = 0;
      for (let row = 0; row < rows; row++) dot += y[row * columns + i]! * y[row * columns + j]!;
      worst = Math.max(worst, Math.abs(dot - Number(i === j)));
    }
  return worst;
}

it('makes a base of any columns: parallel, zero, huge, tiny, nearly dependent, as many as rows', async () => {
  const rng = new Rng('bases');
  const [rows, columns] = [50, 4];
  const matrix = (make: (row: number, column: number) => number) =>
    Float32Array.from({ length: rows * columns }, (_, i) => make(Math.floor(i / columns), i % columns));
  const random = Array.from({ length: rows }, () => rng.normal());
  const matrices = [
    matrix(() => 0),
    matrix((row) => random[row]!),
    matrix((row, column) => (column === 2 ? 0 : random[(row * (column + 1)) % rows]! * 1e18)),
    matrix(() => rng.normal() * 1e-30),
    matrix((row, column) => random[row]! + (column === 0 ? 0 : 1e-4 * rng.normal())),
  ];
  for (const x of matrices) expect(error(await run(x, rows, columns), rows, columns)).toBeLessThan(1e-6);
  const square = Float32Array.from({ length: 36 }, (_, i) => (i < 6 ? 0 : rng.normal()));
  expect(error(await run(square, 6, 6), 6, 6)).toBeLessThan(1e-6);
});

it('keeps what the columns span, the first its direction', async () => {
  const y = await run([3, 1, 0, 5, 4, 2], 3, 2);
  expect([y[0], y[2], y[4]]).toEqual([Math.fround(0.6), 0, Math.fround(0.8)]);
});

it('gives the same bits with any number of threads, and NaN where a number is not finite', async () => {
  const rng = new Rng('threads');
  const x = Float32Array.from({ length: 7 * 100 * 3 }, () => rng.normal());
  const expected = await run(x, 100, 3);
  for (const threads of [1, 3]) {
    using device = openDevice('cpu', { threads });
    expect(await run(x, 100, 3, device)).toEqual(expected);
  }
  x[5] = Number.POSITIVE_INFINITY;
  const y = await run(x, 100, 3);
  expect(y.subarray(0, 300).every(Number.isNaN)).toBe(true);
  expect(y.subarray(300)).toEqual(expected.subarray(300));
});

it('refuses more columns than rows', () => {
  const x = new Graph().input('x', [2, 3], 'fp32');
  expectHadalError(() => orthogonalize(x), 'HADAL_ERR_SHAPE', /no more columns than rows, got fp32 \[2, 3\]/);
});
