import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { truncatedSvd } from '../../src/session/truncated-svd.js';
import { testDevice } from '../support/op-case.js';

const goldens = JSON.parse(readFileSync(new URL('truncated-svd-goldens.json', import.meta.url), 'utf8')) as Record<
  string,
  number[]
>;

/** As truncated-svd-goldens.py does. */
function uniform(count: number, seed: number): Float64Array {
  let state = seed;
  return Float64Array.from({ length: count }, () => {
    state = (state * 48271) % 2147483647;
    return state / 2147483647 - 0.5;
  });
}

function lowRank(): Float64Array {
  const [a, b] = [uniform(40 * 5, 3), uniform(5 * 33, 4)];
  return Float64Array.from({ length: 40 * 33 }, (_, i) => {
    const [m, n] = [Math.floor(i / 33), i % 33];
    return [0, 1, 2, 3, 4].reduce((sum, r) => sum + (a[m * 5 + r] as number) * (b[r * 33 + n] as number), 0);
  });
}

const cases: [name: string, rows: number, columns: number, rank: number, data: () => Float64Array][] = [
  ['flat', 60, 44, 12, () => uniform(60 * 44, 1)],
  ['flat', 60, 44, 44, () => uniform(60 * 44, 1)],
  ['wide', 30, 80, 7, () => uniform(30 * 80, 2)],
  ['decaying', 50, 50, 4, () => Float64Array.from({ length: 2500 }, (_, i) => 1 / (Math.floor(i / 50) + (i % 50) + 1))],
  ['of rank 5', 40, 33, 5, lowRank],
  ['of rank 5', 40, 33, 9, lowRank],
];

describe('truncated SVD', () => {
  it.each(cases)('%s [%i, %i] at rank %i agrees with numpy', async (name, rows, columns, rank, make) => {
    const data = Float32Array.from(make());
    const { left, right, singular, energy } = await truncatedSvd(testDevice(), { data, shape: [rows, columns] }, rank);
    const expected = goldens[name] as number[];
    const greatest = expected[0] as number;
    for (const [i, value] of singular.entries()) {
      expect(Math.abs(value - (expected[i] as number)) / greatest, `value ${i}`).toBeLessThan(3e-5);
    }
    expect(singular).toHaveLength(rank);
    expect(energy / expected.reduce((sum, value) => sum + value ** 2, 0)).toBeCloseTo(1, 8);

    // Eckart & Young: no matrix of that rank is nearer than by the singular values that are left out.
    let missed = 0;
    for (let m = 0; m < rows; m++) {
      for (let n = 0; n < columns; n++) {
        let product = 0;
        for (let r = 0; r < rank; r++)
          product += (left.data[m * rank + r] as number) * (right.data[r * columns + n] as number);
        missed += (product - (data[m * columns + n] as number)) ** 2;
      }
    }
    const tail = expected.slice(rank).reduce((sum, value) => sum + value ** 2, 0);
    expect(Math.abs(missed - tail) / energy).toBeLessThan(1e-6);
    const scales = (values: Float32Array, at: (i: number) => number) => {
      const sums = new Float64Array(rank);
      for (const [i, x] of values.entries()) sums[at(i)] = (sums[at(i)] as number) + x * x;
      return sums;
    };
    const [u, v] = [scales(left.data, (i) => i % rank), scales(right.data, (i) => Math.floor(i / columns))];
    for (let r = 0; r < Math.min(rank, 5); r++) expect((u[r] as number) / (v[r] as number)).toBeCloseTo(1, 4);
  });

  it('of zeros is zeros, one factor of which can still learn', async () => {
    const { left, right } = await truncatedSvd(testDevice(), { data: new Float32Array(48), shape: [8, 6] }, 2);
    expect(left.data.every((x) => x === 0)).toBe(true);
    expect(right.data.some((x) => x !== 0)).toBe(true);
  });

  it('is the same again', async () => {
    const matrix = { data: Float32Array.from(uniform(60 * 44, 1)), shape: [60, 44] };
    const [one, other] = [await truncatedSvd(testDevice(), matrix, 5), await truncatedSvd(testDevice(), matrix, 5)];
    expect(one).toEqual(other);
  });
});
