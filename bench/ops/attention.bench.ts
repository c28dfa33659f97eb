// B batch, T tokens, H heads, D numbers of a query and key, E of a value.
import { attention } from '../../src/ops/attention.js';
import { benchCase } from '../support/bench-case.js';

const headSizes = [
  [48, 32],
  [96, 64],
  [192, 128],
  [64, 64],
  [128, 128],
] as const;

const sizes = [
  { B: 8, T: 256, H: 8, D: 48, E: 32 },
  { B: 4, T: 256, H: 8, D: 96, E: 64 },
  { B: 4, T: 256, H: 12, D: 64, E: 64 },
  ...headSizes.map(([D, E]) => ({ B: 4, T: 512, H: 8, D, E })),
  ...headSizes.map(([D, E]) => ({ B: 1, T: 2048, H: 8, D, E })),
];

const training = sizes.map(({ B, T, H, D, E }) =>
  benchCase({
    name: `${B} × ${T}, ${H} heads of ${D}/${E}`,
    inputs: { q: { shape: [B, T, H, D] }, k: { shape: [B, T, H, D] }, v: { shape: [B, T, H, E] } },
    build: ({ q, k, v }) => attention(q, k, v, { causal: true, scale: D ** -0.5 }),
    wrt: ['q', 'k', 'v'],
  }),
);

const decoding = benchCase({
  name: 'one token over 2048 latents, 16 heads of 576/512',
  inputs: {
    q: { shape: [1, 1, 16, 576] },
    cache: { shape: [1, 2048, 1, 576] },
    start: { shape: [1], dtype: 'int32', values: () => 2047 },
  },
  build: ({ q, cache, start }) => attention(q, cache, null, { causal: true, scale: 0.05, start, valueDim: 512 }),
});

export const cases = [...training, decoding];
