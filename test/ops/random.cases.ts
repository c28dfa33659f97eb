import { dropout, type RandomOptions, randomFill } from '../../src/ops/random.js';
import type { CaseInput, OpCase } from '../support/op-case.js';

type Words = [number, number, number, number];

const product = (a: number, b: number) => BigInt(a >>> 0) * BigInt(b);
const high = (x: bigint) => Number(x >> 32n);
const low = (x: bigint) => Number(x & 0xffffffffn);

/** Philox4x32-10 as in Salmon et al. 2011, §4. */
export function philox(counter: Words, key: [number, number]): Words {
  let c = counter;
  let [k0, k1] = key;
  for (let round = 0; round < 10; round++) {
    const p0 = product(c[0], 0xd2511f53);
    const p1 = product(c[2], 0xcd9e8d57);
    c = [(high(p1) ^ c[1] ^ k0) >>> 0, low(p1), (high(p0) ^ c[3] ^ k1) >>> 0, low(p0)];
    k0 = (k0 + 0x9e3779b9) >>> 0;
    k1 = (k1 + 0xbb67ae85) >>> 0;
  }
  return c;
}

type Draw = (element: number, attempt?: number) => Words;

/** The words of the block that an element belongs to. */
const drawer =
  (key: Float64Array, stream: number): Draw =>
  (element, attempt = 0) =>
    philox([Math.floor(element / 4), 0, stream, attempt], [key[0]! >>> 0, key[1]! >>> 0]);

const uniformAt = (words: Words, element: number) => (words[element % 4]! >>> 8) * 2 ** -24;

/** Box & Muller 1958. */
function normalAt(words: Words, element: number): number {
  const pair = element % 4 < 2 ? 0 : 2;
  const radius = Math.sqrt(-2 * Math.log((words[pair]! + 1) * 2 ** -32));
  const angle = 2 * Math.PI * words[pair + 1]! * 2 ** -32;
  return radius * (element % 2 === 0 ? Math.cos(angle) : Math.sin(angle));
}

function sample(draw: Draw, element: number, { distribution, mean, std }: RandomOptions): number {
  if (distribution === 'uniform') return mean + (2 * uniformAt(draw(element), element) - 1) * Math.sqrt(3) * std;
  let z = normalAt(draw(element), element);
  for (let attempt = 1; distribution === 'truncated-normal' && Math.abs(z) > 2; attempt++) {
    z = normalAt(draw(element, attempt), element);
  }
  return mean + std * z;
}

const keyInput: CaseInput = { shape: [2], dtype: 'int32', values: (_, i) => [-7, 2_000_000_000][i]! };

function fillCase(shape: number[], options: RandomOptions): OpCase {
  const { distribution, stream, mean, std } = options;
  const count = shape.reduce((a, b) => a * b, 1);
  return {
    name: `${distribution} [${shape}] stream ${stream} mean ${mean} std ${std}`,
    inputs: { key: keyInput },
    build: ({ key }) => randomFill(key!, shape, 'fp32', options),
    reference: ({ key }, r) => [
      Float64Array.from({ length: count }, (_, i) => r(sample(drawer(key!, stream), i, options))),
    ],
    dtypes: ['fp32'],
  };
}

function dropoutCase(shape: number[], probability: number, bench = false): OpCase {
  const stream = 2 ** 32 - 1;
  return {
    name: `dropout [${shape}] p ${probability}`,
    inputs: { x: { shape }, key: keyInput },
    build: ({ x, key }) => dropout(x!, key!, { probability, stream }),
    reference({ x, key }, r) {
      const draw = drawer(key!, stream);
      return [x!.map((v, i) => (uniformAt(draw(i), i) >= probability ? r(v * r(1 / (1 - probability))) : 0))];
    },
    ...(bench && { bench }),
  };
}

export const cases: OpCase[] = [
  fillCase([7, 19], { distribution: 'uniform', stream: 0, mean: 0.5, std: 0.5 / Math.sqrt(3) }),
  fillCase([65], { distribution: 'uniform', stream: 3, mean: -2, std: 0.1 }),
  fillCase([7, 19], { distribution: 'normal', stream: 2 ** 32 - 1, mean: 0, std: 1 }),
  fillCase([1], { distribution: 'normal', stream: 1, mean: 3, std: 0.02 }),
  fillCase([300], { distribution: 'truncated-normal', stream: 1, mean: 1, std: 0.5 }),
  fillCase([0], { distribution: 'normal', stream: 1, mean: 0, std: 1 }),
  dropoutCase([5, 7], 0.3),
  dropoutCase([2, 3, 47], 0.9),
  dropoutCase([3], 0),
  dropoutCase([0, 4], 0.5),
  dropoutCase([2048, 1024], 0.1, true),
];
