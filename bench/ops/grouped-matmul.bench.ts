// Products of experts: R rows that are sorted by expert, E experts, uneven as routing is.
import { groupedMatmul, groupedMatmulWeightGradient } from '../../src/ops/grouped-matmul.js';
import { benchCase } from '../support/bench-case.js';

const layers = [
  { R: 8192, E: 16, K: 256, N: 256 },
  { R: 8192, E: 16, K: 128, N: 256 },
  { R: 4096, E: 32, K: 512, N: 512 },
  { R: 4096, E: 32, K: 256, N: 512 },
];

/** Row at which expert e begins: later experts have fewer, the first about twice as many as the last. */
const beginOf = (e: number, experts: number, rows: number) =>
  Math.round(rows * (1.35 - 0.35 * (e / experts)) * (e / experts));

export const cases = layers.flatMap(({ R, E, K, N }) => {
  const offsets = { shape: [E + 1], dtype: 'int32' as const, values: (e: number) => beginOf(e, E, R) };
  const [x, w, dy] = [{ shape: [R, K] }, { shape: [E, N, K] }, { shape: [R, N] }];
  const name = `${R} × ${K} × ${N}, ${E} experts`;
  return [
    benchCase({
      name: `${name}, y = x·wᵀ`,
      inputs: { x, w, offsets },
      build: (values) => groupedMatmul(values.x, values.w, values.offsets, { transposeB: true }),
    }),
    benchCase({
      name: `${name}, dx = dy·w`,
      inputs: { dy, w, offsets },
      build: (values) => groupedMatmul(values.dy, values.w, values.offsets),
    }),
    benchCase({
      name: `${name}, dw = dyᵀ·x`,
      inputs: { dy, x, offsets },
      build: (values) => groupedMatmulWeightGradient(values.dy, values.x, values.offsets, 'fp32'),
    }),
  ];
});
