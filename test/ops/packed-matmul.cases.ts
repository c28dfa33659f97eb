import type { Value } from '../../src/graph/graph.js';
import { packedMatmul, packWeights } from '../../src/ops/packed-matmul.js';
import type { OpCase } from '../support/op-case.js';

function packedCase(
  [m, n, k]: readonly [number, number, number],
  { transposeB = true, fp32A = false, ...rest }: { transposeB?: boolean; fp32A?: boolean } & Partial<OpCase> = {},
): OpCase {
  return {
    name: `M${m} N${n} K${k}${transposeB ? ' wᵀ' : ''}${fp32A ? ' fp32 a' : ''}`,
    inputs: {
      a: { shape: [m, k], dtype: fp32A ? 'fp32' : 'float' },
      w: { shape: transposeB ? [n, k] : [k, n] },
    },
    build: ({ a, w }) => packedMatmul(a as Value, packWeights(w as Value, { transposeB }), { n }),
    reference({ a, w }, r) {
      const c: number[] = [];
      for (let i = 0; i < m; i++) {
        for (let j = 0; j < n; j++) {
          let total = 0;
          for (let l = 0; l < k; l++) {
            const weight = (w as Float64Array)[transposeB ? j * k + l : l * n + j] as number;
            total = r(total + r(((a as Float64Array)[i * k + l] as number) * weight));
          }
          c.push(total);
        }
      }
      return [c];
    },
    differentiable: [],
    ...rest,
  };
}

/** The same for `heads` matrices, one after the other. */
function headsCase(heads: number, sizes: readonly [number, number, number], transposeB = true): OpCase {
  const [m, n, k] = sizes;
  const one = packedCase(sizes, { transposeB });
  return {
    name: `H${heads} ${one.name}`,
    inputs: { a: { shape: [heads, m, k] }, w: { shape: transposeB ? [heads, n, k] : [heads, k, n] } },
    build: one.build,
    reference: ({ a, w }, r) => [
      Array.from({ length: heads }, (_, h) => {
        const part = (x: Float64Array | undefined, size: number) =>
          (x as Float64Array).subarray(h * size, (h + 1) * size);
        return Array.from(one.reference({ a: part(a, m * k), w: part(w, n * k) }, r)[0] as number[]);
      }).flat(),
    ],
    differentiable: [],
  };
}

export const cases: OpCase[] = [
  packedCase([1, 1, 1]),
  packedCase([1, 7, 5], { transposeB: false }),
  packedCase([1, 333, 65]), // wide tiles, narrow tiles, a last panel partly filled
  packedCase([1, 256, 64], { transposeB: false }),
  packedCase([2, 161, 33]),
  packedCase([3, 70, 40], { transposeB: false }),
  packedCase([6, 31, 9]),
  packedCase([7, 33, 9]), // one row more than a tile of AVX2
  packedCase([12, 32, 17]),
  packedCase([13, 64, 17]), // and of AVX-512
  packedCase([40, 130, 600]), // weights of more than a cache's share
  packedCase([5, 40, 1], { fp32A: true }),
  headsCase(3, [1, 70, 20]), // threads share a head
  headsCase(5, [2, 33, 9], false),
  headsCase(2, [13, 4, 3]),
  headsCase(0, [1, 4, 3]),
  headsCase(2, [1, 0, 3]),
  packedCase([0, 40, 8]),
  packedCase([3, 0, 8]),
  packedCase([3, 40, 0]),
  {
    name: 'leading dims are rows',
    inputs: { a: { shape: [2, 3, 10] }, w: { shape: [4, 10] } },
    build: ({ a, w }) => packedMatmul(a as Value, packWeights(w as Value, { transposeB: true }), { n: 4 }),
    reference: (inputs, r) => packedCase([6, 4, 10]).reference(inputs, r),
    differentiable: [],
  },
  packedCase([1, 1024, 256], { bench: true }),
  packedCase([16, 4096, 1024], { bench: true }),
];
