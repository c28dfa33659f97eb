import type { Value } from '../../src/graph/graph.js';
import { type MatmulOptions, matmul, matmulAccumulate } from '../../src/ops/matmul.js';
import type { OpCase } from '../support/op-case.js';

type Data = Record<string, Float64Array>;

/** op(a)·op(b) + accumulator of one batch entry, straight from the definition. */
function product(
  { a, b, accumulator }: Data,
  [batch, m, n, k]: readonly number[],
  { transposeA, transposeB }: MatmulOptions,
  sharesB: boolean,
  r: (x: number) => number,
): number[] {
  const c: number[] = [];
  const [M, N, K] = [m, n, k] as [number, number, number];
  for (let e = 0; e < (batch as number); e++) {
    for (let i = 0; i < M; i++) {
      for (let j = 0; j < N; j++) {
        let total = 0;
        for (let l = 0; l < K; l++) {
          const x = (a as Float64Array)[e * M * K + (transposeA ? l * M + i : i * K + l)] as number;
          const y = (b as Float64Array)[(sharesB ? 0 : e * K * N) + (transposeB ? j * K + l : l * N + j)] as number;
          total = r(total + r(x * y));
        }
        c.push(r(total + (accumulator?.[c.length] ?? 0)));
      }
    }
  }
  return c;
}

function matmulCase(
  name: string,
  sizes: readonly [number, number, number, number],
  options: MatmulOptions,
  extra: Partial<OpCase> = {},
): OpCase {
  const [batch, m, n, k] = sizes;
  const outer = batch > 1 ? [batch] : [];
  const { transposeA = false, transposeB = false } = options;
  return {
    name: `${name}: B${batch} M${m} N${n} K${k}${transposeA ? ' aᵀ' : ''}${transposeB ? ' bᵀ' : ''}`,
    inputs: {
      a: { shape: [...outer, ...(transposeA ? [k, m] : [m, k])] },
      b: { shape: [...outer, ...(transposeB ? [n, k] : [k, n])] },
    },
    build: ({ a, b }) => matmul(a as Value, b as Value, options),
    reference: (inputs, r) => [product(inputs, sizes, options, false, r)],
    ...extra,
  };
}

const transposes: MatmulOptions[] = [false, true].flatMap((transposeA) =>
  [false, true].map((transposeB) => ({ transposeA, transposeB })),
);

const big = { differentiable: [] };

export const cases: OpCase[] = [
  ...transposes.map((options) => matmulCase('odd sizes', [1, 5, 7, 3], options)),
  ...transposes.map((options) => matmulCase('batch', [3, 4, 5, 6], options)),
  matmulCase('one row', [1, 1, 17, 9], { transposeB: true }),
  matmulCase('one column', [1, 11, 1, 13], {}),
  matmulCase('one term', [1, 6, 5, 1], { transposeA: true }),
  // One more than a register tile, than a packed block of rows, of columns and of depth.
  ...transposes.map((options) => matmulCase('beyond a block', [1, 193, 33, 257], options, big)),
  matmulCase('wide', [1, 13, 300, 65], { transposeB: true }, big),
  // 16-bit results are converted from fp32 sums of 128 rows of this width at a time.
  matmulCase('more rows than are converted at once', [1, 130, 8200, 3], {}, { ...big, dtypes: ['bf16'] }),
  matmulCase('more batches than threads', [7, 18, 19, 20], { transposeB: true }, big),
  ...[false, true].map(
    (transposeB): OpCase => ({
      name: `b shared by all leading dims${transposeB ? ', bᵀ' : ''}`,
      inputs: { a: { shape: [2, 3, 4, 5] }, b: { shape: transposeB ? [6, 5] : [5, 6] } },
      build: ({ a, b }) => matmul(a as Value, b as Value, { transposeB }),
      reference: (inputs, r) => [product(inputs, [1, 24, 6, 5], { transposeB }, true, r)],
    }),
  ),
  {
    name: 'fp32 product of any factors',
    inputs: { a: { shape: [4, 9] }, b: { shape: [7, 9] } },
    build: ({ a, b }) => matmul(a as Value, b as Value, { transposeB: true, outputDType: 'fp32' }),
    reference: (inputs, r) => [product(inputs, [1, 4, 7, 9], { transposeB: true }, false, r)],
  },
  ...transposes.map(
    (options): OpCase => ({
      name: `added to an accumulator${options.transposeA ? ', aᵀ' : ''}${options.transposeB ? ', bᵀ' : ''}`,
      inputs: {
        accumulator: { shape: [6, 5] },
        a: { shape: options.transposeA ? [4, 6] : [6, 4] },
        b: { shape: options.transposeB ? [5, 4] : [4, 5] },
      },
      build: ({ accumulator, a, b }) => matmulAccumulate(accumulator as Value, a as Value, b as Value, options),
      reference: (inputs, r) => [product(inputs, [1, 6, 5, 4], options, false, r)],
    }),
  ),
];
