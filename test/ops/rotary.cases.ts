import { type RotaryLayout, rotary } from '../../src/ops/rotary.js';
import type { OpCase } from '../support/op-case.js';

interface Sizes {
  B: number;
  T: number;
  N: number;
  D: number;
  R: number;
  offset?: number;
  inverse?: boolean;
}

const P = 9;

/** Plane rotations of pairs of dims, one by one. */
function rotaryCase(
  layout: RotaryLayout,
  { B, T, N, D, R, offset = 0, inverse = false }: Sizes,
  bench = false,
): OpCase {
  const pairs = R / 2;
  const angle = (i: number) => Math.floor(i / pairs) * 100 ** (-(i % pairs) / pairs);
  return {
    name: `${layout}${inverse ? ' inverse' : ''} B${B} T${T} N${N} D${D} R${R} offset ${offset}`,
    inputs: {
      x: { shape: [B, T, N, D] },
      cos: { shape: [P, pairs], dtype: 'fp32', values: (_, i) => Math.fround(Math.cos(angle(i))) },
      sin: { shape: [P, pairs], dtype: 'fp32', values: (_, i) => Math.fround(Math.sin(angle(i))) },
      positions: { shape: [B, T], dtype: 'int32', values: (_, i) => (i * 5 + 3) % P },
    },
    build: ({ x, cos, sin, positions }) => rotary(x!, cos!, sin!, positions!, { layout, offset, inverse }),
    reference({ x, cos, sin, positions }, r) {
      const y = Float64Array.from(x!);
      for (let head = 0; head < B * T * N; head++) {
        const row = positions![Math.floor(head / N)]! * pairs;
        for (let j = 0; j < pairs; j++) {
          const first = head * D + offset + (layout === 'half' ? j : 2 * j);
          const second = first + (layout === 'half' ? pairs : 1);
          const [a, b, c] = [x![first]!, x![second]!, cos![row + j]!];
          const s = inverse ? -sin![row + j]! : sin![row + j]!;
          y[first] = r(r(a * c) - r(b * s));
          y[second] = r(r(a * s) + r(b * c));
        }
      }
      return [y];
    },
    differentiable: ['x'],
    ...(bench && { bench }),
  };
}

export const cases: OpCase[] = (['interleaved', 'half'] as const).flatMap((layout) => [
  rotaryCase(layout, { B: 2, T: 7, N: 3, D: 10, R: 10 }),
  rotaryCase(layout, { B: 1, T: 5, N: 2, D: 20, R: 6, offset: 14 }),
  rotaryCase(layout, { B: 1, T: 5, N: 2, D: 21, R: 6, offset: 7 }),
  rotaryCase(layout, { B: 2, T: 3, N: 2, D: 48, R: 16, offset: 24 }), // whole packs on both sides
  rotaryCase(layout, { B: 2, T: 3, N: 1, D: 64, R: 64, inverse: true }), // a shared rope key
  rotaryCase(layout, { B: 1, T: 1, N: 1, D: 2, R: 2 }),
  rotaryCase(layout, { B: 1, T: 0, N: 2, D: 4, R: 4 }),
  rotaryCase(layout, { B: 8, T: 256, N: 8, D: 48, R: 16, offset: 32 }, true),
]);
