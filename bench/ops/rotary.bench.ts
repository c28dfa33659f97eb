// B batch, T tokens, N heads of D numbers, the last R of them turned.
import { rotary } from '../../src/ops/rotary.js';
import { benchCase } from '../support/bench-case.js';
import { rowsBeyondCache } from '../support/cache.js';

const sizes = [
  { B: 8, T: 256, N: 8, D: 48, R: 16 },
  { B: 4, T: 256, N: 8, D: 96, R: 32 },
  { B: rowsBeyondCache(1024) / 64, T: 64, N: 8, D: 128, R: 128 },
];

export const cases = sizes.map(({ B, T, N, D, R }) =>
  benchCase({
    name: `${B} × ${T}, ${N} heads of ${D}, ${R} turned`,
    inputs: {
      x: { shape: [B, T, N, D] },
      cos: { shape: [T, R / 2], dtype: 'fp32' },
      sin: { shape: [T, R / 2], dtype: 'fp32' },
      positions: { shape: [B, T], dtype: 'int32', values: (i) => i % T },
    },
    build: ({ x, cos, sin, positions }) => rotary(x, cos, sin, positions, { layout: 'interleaved', offset: D - R }),
  }),
);
