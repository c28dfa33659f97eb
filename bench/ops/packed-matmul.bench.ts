import { packedMatmul, packWeights } from '../../src/ops/packed-matmul.js';
import { benchCase } from '../support/bench-case.js';

const rows = [1, 8];
const [K, N] = [512, 1408];

const packing = benchCase({
  name: `${K} × ${N}`,
  inputs: { w: { shape: [N, K] } },
  build: ({ w }) => packWeights(w, { transposeB: true }),
});

const products = rows.map((R) =>
  benchCase({
    name: `${R} × ${K} × ${N}`,
    inputs: { x: { shape: [R, K] }, packed: { shape: [Math.ceil(N / 32), K, 32] } },
    build: ({ x, packed }) => packedMatmul(x, packed, { n: N }),
  }),
);

export const cases = [packing, ...products];
