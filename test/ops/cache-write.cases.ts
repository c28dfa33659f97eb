import { cacheWrite } from '../../src/ops/cache-write.js';
import type { OpCase } from '../support/op-case.js';

/** Copies the new tokens over the old ones. */
function cacheCase(
  about: string,
  capacity: number,
  tokens: number,
  row: number[],
  start: number[],
  counts?: number[],
): OpCase {
  const batch = start.length;
  const numbers = row.reduce((product, dim) => product * dim, 1);
  return {
    name: `${about} B${batch} S${capacity} T${tokens} row ${row.join('×')}`,
    inputs: {
      cache: { shape: [batch, capacity, ...row] },
      x: { shape: [batch, tokens, ...row] },
      start: { shape: [batch], dtype: 'int32', values: (_, i) => start[i]! },
      ...(counts && {
        counts: { shape: [batch], dtype: 'int32' as const, values: (_: unknown, i: number) => counts[i]! },
      }),
    },
    build: ({ cache, x, start, counts }) => cacheWrite(cache!, x!, start!, counts),
    reference({ cache, x }) {
      const y = Float64Array.from(cache!);
      start.forEach((from, b) => {
        const [begin, count] = [b * tokens * numbers, (counts?.[b] ?? tokens) * numbers];
        y.set(x!.subarray(begin, begin + count), (b * capacity + from) * numbers);
      });
      return [y];
    },
    differentiable: [],
  };
}

export const cases: OpCase[] = [
  cacheCase('one token', 6, 1, [2, 5], [0, 3, 5]),
  cacheCase('several tokens', 9, 4, [1, 7], [5, 0]),
  cacheCase('all of it', 3, 3, [2, 2], [0]),
  cacheCase('nothing new', 3, 0, [2, 2], [3, 1]),
  cacheCase('rows of their own lengths', 6, 3, [2, 2], [4, 6, 0, 3], [2, 0, 1, 3]),
  cacheCase('latent rows without heads', 8, 2, [9], [6, 1]),
];
