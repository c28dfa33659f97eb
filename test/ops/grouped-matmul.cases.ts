import type { Value } from '../../src/graph/graph.js';
import {
  groupedMatmul,
  groupedMatmulWeightGradient,
  groupedMatmulWeightGradientAccumulate,
} from '../../src/ops/grouped-matmul.js';
import type { OpCase } from '../support/op-case.js';

/** Where groups of these sizes begin, and where the last one ends. */
function offsetsOf(counts: readonly number[]): number[] {
  let end = 0;
  return [0, ...counts.map((count) => (end += count))];
}

const groupOf = (offsets: Float64Array, row: number) =>
  offsets.findIndex((begin, e) => begin <= row && row < (offsets[e + 1] ?? 0));

function forwardCase(
  name: string,
  counts: readonly number[],
  k: number,
  n: number,
  transposeB: boolean,
  extra: Partial<OpCase> = {},
): OpCase {
  const offsets = offsetsOf(counts);
  const rows = offsets.at(-1) as number;
  const groups = counts.length;
  return {
    name: `${name}: rows ${counts.join('+')} K${k} N${n}${transposeB ? ' wᵀ' : ''}`,
    inputs: {
      x: { shape: [rows, k] },
      w: { shape: transposeB ? [groups, n, k] : [groups, k, n] },
      offsets: { shape: [groups + 1], dtype: 'int32', values: (_, i) => offsets[i] as number },
    },
    build: ({ x, w, offsets }) => groupedMatmul(x as Value, w as Value, offsets as Value, { transposeB }),
    reference({ x, w, offsets }, r) {
      const y: number[] = [];
      for (let row = 0; row < rows; row++) {
        const e = groupOf(offsets as Float64Array, row);
        for (let j = 0; j < n; j++) {
          let total = 0;
          for (let l = 0; l < k; l++) {
            const weight = (w as Float64Array)[e * k * n + (transposeB ? j * k + l : l * n + j)] as number;
            total = r(total + r(((x as Float64Array)[row * k + l] as number) * weight));
          }
          y.push(total);
        }
      }
      return [y];
    },
    ...extra,
  };
}

function gradientCase(
  name: string,
  counts: readonly number[],
  m: number,
  n: number,
  { outputDType, accumulates = false }: { outputDType?: 'fp32'; accumulates?: boolean } = {},
  extra: Partial<OpCase> = {},
): OpCase {
  const offsets = offsetsOf(counts);
  const rows = offsets.at(-1) as number;
  const addend = { shape: [counts.length, m, n], ...(outputDType && { dtype: outputDType }) };
  return {
    name: `weight gradient, ${name}: rows ${counts.join('+')} M${m} N${n}`,
    inputs: {
      a: { shape: [rows, m] },
      b: { shape: [rows, n] },
      offsets: { shape: [counts.length + 1], dtype: 'int32', values: (_, i) => offsets[i] as number },
      ...(accumulates ? { addend } : {}),
    },
    build: ({ a, b, offsets, addend }) =>
      addend
        ? groupedMatmulWeightGradientAccumulate(addend, a as Value, b as Value, offsets as Value)
        : groupedMatmulWeightGradient(a as Value, b as Value, offsets as Value, outputDType),
    reference({ a, b, offsets, addend }, r) {
      const c = new Array<number>(counts.length * m * n).fill(0);
      for (let row = 0; row < rows; row++) {
        const e = groupOf(offsets as Float64Array, row);
        for (let i = 0; i < m; i++) {
          for (let j = 0; j < n; j++) {
            const at = (e * m + i) * n + j;
            const term = r(((a as Float64Array)[row * m + i] as number) * ((b as Float64Array)[row * n + j] as number));
            c[at] = r((c[at] as number) + term);
          }
        }
      }
      return [c.map((sum, i) => r(sum + (addend?.[i] ?? 0)))];
    },
    ...extra,
  };
}

export const cases: OpCase[] = [
  forwardCase('uneven groups', [3, 1, 5], 4, 6, false),
  forwardCase('uneven groups', [3, 1, 5], 4, 6, true),
  forwardCase('empty groups', [0, 4, 0, 3, 0], 5, 7, true),
  forwardCase('one group', [9], 3, 5, false),
  forwardCase('one row', [0, 1], 8, 9, true),
  forwardCase('larger than a tile', [70, 2, 131], 40, 36, true, { differentiable: [] }),
  forwardCase('large tiles of a GPU', [200, 70], 40, 136, false, { differentiable: [] }),
  gradientCase('uneven groups', [3, 1, 5], 4, 6),
  gradientCase('empty groups', [0, 4, 0, 3, 0], 5, 7),
  gradientCase('fp32 sums', [7, 0, 19], 18, 33, { outputDType: 'fp32' }),
  gradientCase('added to an accumulator', [0, 4, 3], 5, 7, { accumulates: true }),
  gradientCase('added to fp32 sums', [0, 17, 3], 35, 37, { outputDType: 'fp32', accumulates: true }),
  gradientCase('large tiles of a GPU', [40, 0, 77], 144, 136, { outputDType: 'fp32' }, { differentiable: [] }),
];
