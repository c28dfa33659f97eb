import type { DType } from '../../src/core/dtype.js';
import type { Value } from '../../src/graph/graph.js';
import { type MatmulOptions, matmul, matmulAccumulate } from '../../src/ops/matmul.js';
import type { OpCase } from '../support/op-case.js';

type Data = Record<string, Float64Array>;

/** op(a)·op(b) + addend, straight from the definition. */
function product(
  { a, b, addend }: Data,
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
        c.push(r(total + (addend?.[c.length % addend.length] ?? 0)));
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

function addendCase(
  name: string,
  sizes: readonly [number, number, number, number],
  options: MatmulOptions,
  { isRow = false, addendDType }: { isRow?: boolean; addendDType?: DType } = {},
  extra: Partial<OpCase> = {},
): OpCase {
  const base = matmulCase(name, sizes, options);
  const [batch, m, n] = sizes;
  const shape = isRow ? [n] : batch > 1 ? [batch, m, n] : [m, n];
  return {
    ...base,
    inputs: { ...base.inputs, addend: { shape, ...(addendDType && { dtype: addendDType }) } },
    build: ({ addend, a, b }) => matmulAccumulate(addend as Value, a as Value, b as Value, options),
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
  // More terms than are summed at once: of a transposed a, and of any.
  addendCase(
    'many terms',
    [1, 30, 70, 1033],
    { transposeA: true, outputDType: 'fp32' },
    {},
    { ...big, dtypes: ['bf16'] },
  ),
  matmulCase('very many terms', [1, 14, 37, 4099], { transposeB: true }, { ...big, dtypes: ['bf16'] }),
  // Around the tiles of a GPU: 16, 64 and 128 rows or columns, 16, 32 and 64 terms; rows of whole 16 bytes and others.
  ...(
    [
      [1, 15, 127, 31],
      [1, 16, 128, 64],
      [1, 17, 129, 33],
      [1, 63, 65, 63],
      [1, 64, 66, 65],
      [1, 127, 130, 17],
      [1, 130, 129, 15],
      [1, 136, 136, 40],
      [2, 72, 64, 24],
    ] as const
  ).flatMap((sizes, i) =>
    [i, i + 1].map((which) => matmulCase('around tiles', sizes, transposes[which % 4] as MatmulOptions, big)),
  ),
  // Terms that are summed in parts, of few numbers.
  addendCase('parts of the terms', [1, 24, 20, 1100], { transposeA: true }, {}, big),
  addendCase('parts of the terms', [2, 7, 24, 1544], { transposeB: true }, { isRow: true }, big),
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
  ...transposes.map((options) => addendCase('added to an accumulator', [1, 6, 5, 4], options)),
  addendCase('added to an accumulator', [3, 6, 5, 4], { transposeB: true }),
  addendCase('added to a row', [1, 19, 37, 7], { transposeB: true }, { isRow: true }),
  addendCase('added to a row', [3, 4, 5, 6], {}, { isRow: true }),
  // As mixed precision has them: weight gradients, residuals and biases in fp32; outputs of either width.
  ...(['fp32', 'bf16'] as const).flatMap((outputDType) =>
    [false, true].map((isRow) =>
      addendCase(
        `fp32 ${isRow ? 'row' : 'accumulator'}, ${outputDType} output`,
        [1, 35, 33, 19],
        { transposeA: !isRow, transposeB: isRow, outputDType },
        { isRow, addendDType: 'fp32' },
        { dtypes: ['bf16'] },
      ),
    ),
  ),
  addendCase('16-bit residual, fp32 output', [1, 13, 50, 9], { transposeB: true, outputDType: 'fp32' }),
  addendCase('no terms', [1, 5, 6, 0], {}, {}, big),
];
