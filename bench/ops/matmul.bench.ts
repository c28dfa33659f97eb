// The products of a linear layer: x [R, K] · wᵀ [N, K], and the two of its backward pass, the weight's in fp32.
import { matmul, matmulAccumulate } from '../../src/ops/matmul.js';
import { benchCase } from '../support/bench-case.js';

const layers = [
  { R: 2048, K: 128, N: 384 },
  { R: 2048, K: 256, N: 1408 },
  { R: 2048, K: 704, N: 256 },
  { R: 1024, K: 256, N: 768 },
  { R: 1024, K: 512, N: 2816 },
  { R: 1024, K: 1408, N: 512 },
  { R: 1024, K: 768, N: 2304 },
  { R: 1024, K: 3072, N: 768 },
  { R: 2048, K: 2048, N: 2048 },
];

const products = layers.flatMap(({ R, K, N }) => {
  const [x, w, dy] = [{ shape: [R, K] }, { shape: [N, K] }, { shape: [R, N] }];
  const name = `${R} × ${K} × ${N}`;
  return [
    benchCase({
      name: `${name}, y = x·wᵀ`,
      inputs: { x, w },
      build: (values) => matmul(values.x, values.w, { transposeB: true }),
    }),
    benchCase({ name: `${name}, dx = dy·w`, inputs: { dy, w }, build: (values) => matmul(values.dy, values.w) }),
    benchCase({
      name: `${name}, dw = dyᵀ·x`,
      inputs: { dy, x },
      build: (values) => matmul(values.dy, values.x, { transposeA: true, outputDType: 'fp32' }),
    }),
  ];
});

const accumulated = benchCase({
  name: '2048 × 704 × 256, y = x·wᵀ + residual',
  inputs: { x: { shape: [2048, 704] }, w: { shape: [256, 704] }, residual: { shape: [2048, 256] } },
  build: ({ x, w, residual }) => matmulAccumulate(residual, x, w, { transposeB: true }),
});

export const cases = [...products, accumulated];
