import type { Value } from '../../src/graph/graph.js';
import * as ew from '../../src/ops/elementwise.js';
import type { OpCase } from '../support/op-case.js';
import type { Rng } from '../support/rng.js';

type Unary = [name: string, build: OpCase['build'], f: (x: number) => number, values?: (rng: Rng) => number];

const positive = (rng: Rng) => 0.2 + 2 * rng.uniform();
const awayFromZero = (rng: Rng) => (rng.uniform() < 0.5 ? -1 : 1) * (0.1 + rng.uniform());
/** Never within a finite difference of a number that normal() yields: a step has no slope on either side. */
const beyondNoise = (rng: Rng) => (rng.uniform() < 0.5 ? -100 : 100);
const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));
/** Abramowitz & Stegun 7.1.5, the series; exact enough for |x| < 4. */
function erf(x: number): number {
  let term = x;
  let total = x;
  for (let n = 1; n < 80; n++) {
    term *= -(x * x) / n;
    total += term / (2 * n + 1);
  }
  return (2 / Math.sqrt(Math.PI)) * total;
}

const unary: Unary[] = [
  ['negate', ({ x }) => ew.negate(x as never), (x) => -x],
  ['reciprocal', ({ x }) => ew.reciprocal(x as never), (x) => 1 / x, awayFromZero],
  ['exp', ({ x }) => ew.exp(x as never), Math.exp],
  ['log', ({ x }) => ew.log(x as never), Math.log, positive],
  ['log1p', ({ x }) => ew.log1p(x as never), Math.log1p, positive],
  ['sqrt', ({ x }) => ew.sqrt(x as never), Math.sqrt, positive],
  ['rsqrt', ({ x }) => ew.rsqrt(x as never), (x) => 1 / Math.sqrt(x), positive],
  ['square', ({ x }) => ew.square(x as never), (x) => x * x],
  ['abs', ({ x }) => ew.abs(x as never), Math.abs, awayFromZero],
  ['sign', ({ x }) => ew.sign(x as never), Math.sign, awayFromZero],
  ['sigmoid', ({ x }) => ew.sigmoid(x as never), sigmoid],
  ['tanh', ({ x }) => ew.tanh(x as never), Math.tanh],
  ['silu', ({ x }) => ew.silu(x as never), (x) => x * sigmoid(x)],
  [
    'gelu',
    ({ x }) => ew.gelu(x as never),
    (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
  ],
  [
    'geluSlope',
    ({ x }) => ew.geluSlope(x as never),
    (x) => {
      const t = Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3));
      return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * Math.sqrt(2 / Math.PI) * (1 + 3 * 0.044715 * x * x);
    },
  ],
  ['geluErf', ({ x }) => ew.geluErf(x as never), (x) => 0.5 * x * (1 + erf(x / Math.SQRT2))],
  ['erf', ({ x }) => ew.erf(x as never), erf],
  ['relu', ({ x }) => ew.relu(x as never), (x) => Math.max(x, 0), awayFromZero],
  ['sin', ({ x }) => ew.sin(x as never), Math.sin],
  ['cos', ({ x }) => ew.cos(x as never), Math.cos],
  ['floor', ({ x }) => ew.floor(x as never), Math.floor, (rng) => rng.integer(5) + 0.25 + 0.5 * rng.uniform()],
  ['isFinite', ({ x }) => ew.finite(x as never), () => 1],
];

type Binary = [
  name: string,
  build: OpCase['build'],
  f: (a: number, b: number) => number,
  values?: (rng: Rng) => number,
];

const binary: Binary[] = [
  ['add', ({ a, b }) => ew.add(a as never, b as never), (a, b) => a + b],
  ['subtract', ({ a, b }) => ew.subtract(a as never, b as never), (a, b) => a - b],
  ['multiply', ({ a, b }) => ew.multiply(a as never, b as never), (a, b) => a * b],
  ['divide', ({ a, b }) => ew.divide(a as never, b as never), (a, b) => a / b, awayFromZero],
  ['maximum', ({ a, b }) => ew.maximum(a as never, b as never), Math.max],
  ['minimum', ({ a, b }) => ew.minimum(a as never, b as never), Math.min],
  ['less', ({ a, b }) => ew.less(a as never, b as never), (a, b) => Number(a < b), beyondNoise],
  ['lessEqual', ({ a, b }) => ew.lessEqual(a as never, b as never), (a, b) => Number(a <= b), beyondNoise],
  ['equal', ({ a, b }) => ew.equal(a as never, b as never), (a, b) => Number(a === b), beyondNoise],
];

/** The library's functions round once where plain code rounds a few times: vector exp and tanh are good to about 2 ulp. */
const functionTolerance = 2;

/** Index of the element of `shape` that stands at linear position i of `out`, NumPy's way. */
function broadcastIndex(i: number, out: readonly number[], shape: readonly number[]): number {
  let rest = i;
  let index = 0;
  let stride = 1;
  for (let d = 1; d <= out.length; d++) {
    const at = rest % (out.at(-d) as number);
    rest = Math.floor(rest / (out.at(-d) as number));
    const dim = d <= shape.length ? (shape.at(-d) as number) : 1;
    if (dim !== 1) index += at * stride;
    stride *= dim;
  }
  return index;
}

const shapes = [
  { a: [5, 1, 7], b: [3, 1] },
  { a: [2, 3, 65], b: [] },
  { a: [3, 2, 16], b: [3, 1, 16] },
];

export const cases: OpCase[] = [
  ...unary.map(
    ([name, build, f, values]): OpCase => ({
      name: `${name} [3, 37]`,
      inputs: { x: { shape: [3, 37], ...(values ? { values } : {}) } },
      build,
      reference: ({ x }, r) => [Float64Array.from(x as Float64Array, (v) => r(f(v)))],
      tolerance: functionTolerance,
    }),
  ),
  ...binary.flatMap(([name, build, f, values]) =>
    shapes.map(({ a, b }): OpCase => {
      const out = a.map((dim, i) => Math.max(dim, b[i - (a.length - b.length)] ?? 1));
      return {
        name: `${name} [${a}] [${b}]`,
        inputs: { a: { shape: a }, b: { shape: b, ...(values ? { values } : {}) } },
        build,
        reference: (inputs, r) => [
          Float64Array.from({ length: out.reduce((n, dim) => n * dim, 1) }, (_, i) =>
            r(f(inputs.a?.[broadcastIndex(i, out, a)] as number, inputs.b?.[broadcastIndex(i, out, b)] as number)),
          ),
        ],
      };
    }),
  ),
  ...(
    [
      ['sin', ew.sin, Math.sin],
      ['cos', ew.cos, Math.cos],
    ] as const
  ).map(
    ([name, build, f]): OpCase => ({
      name: `${name} of large numbers`,
      inputs: { x: { shape: [257], values: (rng) => 10_000 * rng.normal() } },
      build: ({ x }) => build(x as never),
      reference: ({ x }, r) => [Float64Array.from(x as Float64Array, (v) => r(f(v)))],
    }),
  ),
  {
    name: 'a deep stack',
    inputs: { x: { shape: [3, 16] }, y: { shape: [16] } },
    build({ x, y }) {
      const level = (depth: number): Value =>
        depth === 0 ? ew.multiply(x!, y!) : ew.add(x!, ew.tanh(level(depth - 1)));
      return level(6);
    },
    reference: ({ x, y }, r) => [
      x!.map((v, i) => {
        let result = r(v * y![i % 16]!);
        for (let depth = 0; depth < 6; depth++) result = r(v + r(Math.tanh(result)));
        return result;
      }),
    ],
    tolerance: functionTolerance,
  },
  {
    name: 'where [4, 9] [9] number',
    inputs: { c: { shape: [4, 9], dtype: 'int32', values: (rng) => rng.integer(2) }, a: { shape: [9] } },
    build: ({ c, a }) => ew.where(c as never, a as never, 0.5),
    reference: ({ c, a }) => [(c as Float64Array).map((v, i) => (v ? (a?.[i % 9] as number) : 0.5))],
  },
  {
    name: 'one value twice [1000]',
    inputs: { x: { shape: [1000] } },
    build: ({ x }) => ew.add(ew.multiply(x as never, x as never), x as never),
    reference: ({ x }, r) => [(x as Float64Array).map((v) => r(r(v * v) + v))],
  },
];
