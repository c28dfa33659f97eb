import { gradients } from '../../src/autodiff/gradients.js';
import { multiply, square } from '../../src/ops/elementwise.js';
import { expertOrder, permute, unpermute } from '../../src/ops/permute.js';
import { sum } from '../../src/ops/reduce.js';
import type { CaseInput, OpCase } from '../support/op-case.js';

interface Sizes {
  T: number;
  K: number;
  E: number;
  D: number;
  bench?: boolean;
}

const sizesName = ({ T, K, E, D }: Sizes) => `T${T} K${K} E${E} D${D}`;

/** Experts of the pairs; with `none`, some pairs go to no expert. */
const expertsInput = ({ T, K, E }: Sizes, none: boolean): CaseInput => ({
  shape: [T, K],
  dtype: 'int32',
  values: (rng) => (none ? rng.integer(E + 1) - 1 : rng.integer(E)),
});

/** Pairs in the order of their rows. */
const sorted = (experts: Float64Array) =>
  [...experts.keys()].filter((i) => experts[i]! >= 0).sort((a, b) => experts[a]! - experts[b]! || a - b);

function orderCase(sizes: Sizes, none: boolean): OpCase {
  const { T, K, E } = sizes;
  return {
    name: `order ${sizesName(sizes)}${none ? ' some to none' : ''}`,
    inputs: { experts: expertsInput(sizes, none) },
    build({ experts }) {
      const { offsets, position, source, rows } = expertOrder(experts!, { experts: E });
      return [offsets, position, source, rows];
    },
    reference({ experts }) {
      const source = sorted(experts!);
      const offsets = Array.from({ length: E + 1 }, (_, e) => source.filter((pair) => experts![pair]! < e).length);
      const position = Array.from({ length: T * K }, (_, pair) => source.indexOf(pair));
      const beyond = new Array<number>(T * K - source.length).fill(0);
      return [offsets, position, [...source, ...beyond], [source.length]];
    },
    dtypes: ['fp32'],
  };
}

function permuteCase(sizes: Sizes): OpCase {
  const { T, K, E, D, bench = false } = sizes;
  return {
    name: `permute ${sizesName(sizes)}`,
    inputs: { x: { shape: [T, D] }, experts: expertsInput(sizes, false) },
    build: ({ x, experts }) => permute(x!, expertOrder(experts!, { experts: E })),
    reference: ({ x, experts }) => [
      sorted(experts!).flatMap((pair) => [...x!.subarray(Math.floor(pair / K) * D, (Math.floor(pair / K) + 1) * D)]),
    ],
    ...(bench && { bench }),
  };
}

function unpermuteCase(sizes: Sizes, weighted: boolean, none: boolean): OpCase {
  const { T, K, E, D, bench = false } = sizes;
  return {
    name: `unpermute ${sizesName(sizes)}${weighted ? ' weighted' : ''}${none ? ' some to none' : ''}`,
    inputs: {
      y: { shape: [T * K, D] },
      ...(weighted && { weights: { shape: [T, K], dtype: 'fp32' } }),
      experts: expertsInput(sizes, none),
    },
    build: ({ y, weights, experts }) => unpermute(y!, expertOrder(experts!, { experts: E }), weights ?? null),
    reference({ y, weights, experts }, r) {
      const source = sorted(experts!);
      const x = new Float64Array(T * D);
      for (let pair = 0; pair < T * K; pair++) {
        const row = source.indexOf(pair);
        if (row === -1) continue;
        for (let d = 0; d < D; d++) {
          const at = Math.floor(pair / K) * D + d;
          x[at] = r(x[at]! + r(y![row * D + d]! * (weights?.[pair] ?? 1)));
        }
      }
      return [x];
    },
    // Rows beyond the extent get no gradient at all: only those in use can be compared.
    ...(none && { differentiable: weighted ? ['weights'] : [] }),
    ...(bench && { bench }),
  };
}

/** The gradients of ½ Σ (Σ_k w·x)² through both ops: what this case differentiates are gradients of gradients. */
function secondOrderCase(sizes: Sizes): OpCase {
  const { T, K, E, D } = sizes;
  return {
    name: `gradients ${sizesName(sizes)}`,
    inputs: {
      x: { shape: [T, D] },
      weights: { shape: [T, K], dtype: 'fp32' },
      experts: expertsInput(sizes, true),
    },
    build({ x, weights, experts }) {
      const order = expertOrder(experts!, { experts: E });
      const out = unpermute(permute(x!, order), order, weights!);
      return gradients(multiply(sum(square(out), [0, 1]), 0.5), [x!, weights!]);
    },
    reference({ x, weights, experts }, r) {
      const dx = new Float64Array(T * D);
      const dweights = new Float64Array(T * K);
      for (let t = 0; t < T; t++) {
        const pairs = Array.from({ length: K }, (_, k) => t * K + k).filter((pair) => experts![pair]! >= 0);
        const total = pairs.reduce((a, pair) => r(a + weights![pair]!), 0);
        const row = x!.subarray(t * D, (t + 1) * D);
        row.forEach((v, d) => {
          dx[t * D + d] = r(v * r(total * total));
        });
        const dot = row.reduce((a, v) => r(a + r(v * v)), 0);
        for (const pair of pairs) dweights[pair] = r(dot * total);
      }
      return [dx, dweights];
    },
    dtypes: ['fp32'], // others round between the two products, while dweights stays fp32
  };
}

const small: Sizes[] = [
  { T: 7, K: 2, E: 3, D: 5 },
  { T: 5, K: 3, E: 8, D: 33 },
  { T: 4, K: 1, E: 1, D: 1 },
  { T: 0, K: 2, E: 3, D: 4 },
  { T: 9, K: 4, E: 6, D: 200 }, // several vectors at a time, and some that are left
];

export const cases: OpCase[] = [
  ...small.flatMap((sizes) => [
    orderCase(sizes, false),
    orderCase(sizes, true),
    permuteCase(sizes),
    unpermuteCase(sizes, false, false),
    unpermuteCase(sizes, true, false),
    unpermuteCase(sizes, true, true),
    secondOrderCase(sizes),
  ]),
  orderCase({ T: 20000, K: 2, E: 5, D: 1 }, true), // more than one thread's share
  orderCase({ T: 900, K: 3, E: 1100, D: 1 }, true), // more experts than a GPU counts in shared memory
  permuteCase({ T: 2048, K: 8, E: 64, D: 512, bench: true }),
  unpermuteCase({ T: 2048, K: 4, E: 16, D: 256, bench: true }, true, false),
  unpermuteCase({ T: 4096, K: 4, E: 32, D: 512, bench: true }, true, false),
];
