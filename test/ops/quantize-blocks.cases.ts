import type { Value } from '../../src/graph/graph.js';
import { cast } from '../../src/ops/elementwise.js';
import { dequantizeBlocks, quantizeBlocks, sumBlocks } from '../../src/ops/quantize-blocks.js';
import { reshape } from '../../src/ops/shape.js';
import type { OpCase } from '../support/op-case.js';
import type { Rng } from '../support/rng.js';

const block = 256;

/** The numbers as a message tells of them, block by block. */
export function quantized(x: ArrayLike<number>): Float64Array {
  const y = new Float64Array(x.length);
  for (let begin = 0; begin < x.length; begin += block) {
    const own = Array.from(x).slice(begin, begin + block);
    const scale = upToBf16(Math.max(...own.map((one) => Math.abs(one))) / 127);
    for (const [i, one] of own.entries()) y[begin + i] = scale * toNearest(Math.fround(one / scale));
  }
  return y;
}

/** To the nearest integer, ties to even. */
function toNearest(x: number): number {
  const down = Math.floor(x);
  if (x - down === 0.5) return down % 2 === 0 ? down : down + 1;
  return Math.round(x);
}

function upToBf16(x: number): number {
  const bits = new Uint32Array(Float32Array.of(x).buffer);
  bits[0] = ((bits[0] as number) + 0xffff) & 0xffff0000;
  return Math.max(new Float32Array(bits.buffer)[0] as number, 2 ** -126);
}

/** Sizes range over many magnitudes, so that blocks differ. */
const sized = (rng: Rng, i: number) => rng.normal() * 2 ** ((i >> 6) % 9);

/** A message of one rank, and what it lacks. `parts` ranks would get a part each. */
function roundTrip(shape: number[], parts: number): OpCase {
  return {
    name: `[${shape}] in ${parts} parts`,
    inputs: { grad: { shape, dtype: 'fp32', values: sized } },
    differentiable: [],
    dtypes: ['fp32'],
    build: ({ grad }) => dequantizeBlocks(quantizeBlocks(grad as Value, null, parts), shape, parts),
    reference: ({ grad }) => [quantized(grad as Float64Array)],
  };
}

/** Both roundings of a program of one rank, with a residual. */
function bothRoundings(shape: number[], factor: number): OpCase {
  return {
    name: `[${shape}] and a residual times ${factor}`,
    inputs: {
      grad: { shape, dtype: 'fp32', values: sized },
      residual: { shape, dtype: 'fp32' },
      scale: { shape: [1], dtype: 'fp32', values: () => factor },
    },
    differentiable: [],
    dtypes: ['fp32'],
    build(values) {
      const { grad, residual: value, scale } = values as Record<string, Value> & { grad: Value };
      const residual = { value: value as Value, scale: scale as Value };
      const sent = quantizeBlocks(grad, residual, 1);
      const made = sumBlocks(sent, { sent, grad, residual }, { ranks: 1, rank: 0, count: grad.size });
      const messages = reshape(made.message, [1, -1]);
      return [dequantizeBlocks(messages, shape, 1), cast(made.residual as Value, 'fp32')];
    },
    reference({ grad, residual, scale }, r) {
      const f = (scale as Float64Array)[0] as number;
      const x = (grad as Float64Array).map((g, i) => r(g + r(f * ((residual as Float64Array)[i] as number))));
      const once = quantized(Float32Array.from(x));
      const twice = quantized(once);
      return [twice, x.map((one, i) => r(one - (twice[i] as number)))];
    },
  };
}

export const cases: OpCase[] = [
  roundTrip([5, 7], 1),
  roundTrip([256], 1),
  roundTrip([3, 300], 2),
  roundTrip([30, 513], 3),
  // More parts than blocks.
  roundTrip([300], 5),
  bothRoundings([5, 7], 1),
  bothRoundings([30, 513], 0.5),
  bothRoundings([40, 100], 0),
];
