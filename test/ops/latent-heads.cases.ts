import { gradients } from '../../src/autodiff/gradients.js';
import { cast, square } from '../../src/ops/elementwise.js';
import { latentHeads } from '../../src/ops/latent-heads.js';
import { sum } from '../../src/ops/reduce.js';
import type { RotaryLayout } from '../../src/ops/rotary.js';
import type { CaseInput, OpCase } from '../support/op-case.js';

interface Sizes {
  B: number;
  T: number;
  H: number;
  D: number;
  R: number;
  E: number;
}

const P = 9;

/** Tables are of lengths other than 1, as YaRN makes them: turning back is not the inverse then, but the transpose. */
function inputsOf({ B, T, H, D, R, E }: Sizes): Record<string, CaseInput> {
  const pairs = R / 2;
  const angle = (i: number) => Math.floor(i / pairs) * 100 ** (-(i % pairs) / pairs);
  return {
    q: { shape: [B, T, H, D] },
    keyValue: { shape: [B, T, H, D - R + E] },
    sharedKey: { shape: [B, T, 1, R] },
    cos: { shape: [P, pairs], dtype: 'fp32', values: (_, i) => Math.fround(1.25 * Math.cos(angle(i))) },
    sin: { shape: [P, pairs], dtype: 'fp32', values: (_, i) => Math.fround(1.25 * Math.sin(angle(i))) },
    positions: { shape: [B, T], dtype: 'int32', values: (_, i) => (i * 5 + 3) % P },
  };
}

type Arrays = Record<string, Float64Array>;
type Rounding = (x: number) => number;

/** Rotary dims of one head, turned pair by pair; `back`: the transpose of it. */
function turned(layout: RotaryLayout, x: Float64Array, row: number, at: Arrays, r: Rounding, back = false) {
  const pairs = x.length / 2;
  const y = new Float64Array(x.length);
  for (let j = 0; j < pairs; j++) {
    const first = layout === 'half' ? j : 2 * j;
    const second = layout === 'half' ? j + pairs : 2 * j + 1;
    const [a, b, c] = [x[first]!, x[second]!, at.cos![row * pairs + j]!];
    const s = back ? -at.sin![row * pairs + j]! : at.sin![row * pairs + j]!;
    y[first] = r(r(a * c) - r(b * s));
    y[second] = r(r(a * s) + r(b * c));
  }
  return y;
}

function heads({ B, T, H, D, R, E }: Sizes, layout: RotaryLayout, at: Arrays, r: Rounding) {
  const plain = D - R;
  const [q, k, v] = [Float64Array.from(at.q!), new Float64Array(B * T * H * D), new Float64Array(B * T * H * E)];
  for (let head = 0; head < B * T * H; head++) {
    const token = Math.floor(head / H);
    const row = at.positions![token]!;
    const pieces = at.keyValue!.subarray(head * (plain + E), (head + 1) * (plain + E));
    q.set(turned(layout, q.slice(head * D + plain, (head + 1) * D), row, at, r), head * D + plain);
    k.set(pieces.subarray(0, plain), head * D);
    k.set(turned(layout, at.sharedKey!.subarray(token * R, (token + 1) * R), row, at, r), head * D + plain);
    v.set(pieces.subarray(plain), head * E);
  }
  return [q, k, v] as const;
}

const build = (layout: RotaryLayout, values: Parameters<OpCase['build']>[0]) => {
  const { q, keyValue, sharedKey, cos, sin, positions } = values;
  return latentHeads({
    q: q!,
    keyValue: keyValue!,
    sharedKey: sharedKey!,
    cos: cos!,
    sin: sin!,
    positions: positions!,
    layout,
  });
};
const differentiable = ['q', 'keyValue', 'sharedKey'];
const nameOf = (layout: RotaryLayout, { B, T, H, D, R, E }: Sizes) => `${layout} B${B} T${T} H${H} D${D} R${R} E${E}`;

function headsCase(layout: RotaryLayout, sizes: Sizes, bench = false): OpCase {
  return {
    name: nameOf(layout, sizes),
    inputs: inputsOf(sizes),
    build(values) {
      const { q, k, v } = build(layout, values);
      return [q, k, v];
    },
    reference: (at, r) => [...heads(sizes, layout, at, r)],
    differentiable,
    ...(bench && { bench }),
  };
}

/** Attention without a value, or without a key: the other gradients are zeros. */
function oneHeadCase(output: 'k' | 'v', layout: RotaryLayout, sizes: Sizes): OpCase {
  return {
    name: `${output} alone, ${nameOf(layout, sizes)}`,
    inputs: inputsOf(sizes),
    build: (values) => build(layout, values)[output],
    reference: (at, r) => [heads(sizes, layout, at, r)[output === 'k' ? 1 : 2]],
    differentiable,
  };
}

/** The gradients of ½ Σ q² + k² + v²: what this case differentiates are gradients of gradients. */
function secondOrderCase(layout: RotaryLayout, sizes: Sizes): OpCase {
  const { B, T, H, D, R, E } = sizes;
  const plain = D - R;
  return {
    name: `gradients ${nameOf(layout, sizes)}`,
    inputs: inputsOf(sizes),
    build(values) {
      const { q, k, v } = build(layout, values);
      const energies = [q, k, v].map((x) => sum(square(cast(x, 'fp32')), [0, 1, 2, 3]));
      return energies.flatMap((energy, i) => {
        const wanted = i === 0 ? ['q'] : i === 1 ? ['keyValue', 'sharedKey'] : ['keyValue'];
        return gradients(
          energy,
          wanted.map((name) => values[name]!),
        );
      });
    },
    reference(at, r) {
      const [q, k, v] = heads(sizes, layout, at, r);
      const dq = Float64Array.from(q, (x) => 2 * x);
      const shared = new Float64Array(B * T * R);
      const [ofKey, ofValue] = [at.keyValue!, at.keyValue!].map(({ length }) => new Float64Array(length));
      for (let head = 0; head < B * T * H; head++) {
        const token = Math.floor(head / H);
        const row = at.positions![token]!;
        const back = (x: Float64Array) => turned(layout, x, row, at, r, true);
        dq.set(back(dq.slice(head * D + plain, (head + 1) * D)), head * D + plain);
        for (let i = 0; i < plain; i++) ofKey![head * (plain + E) + i] = 2 * k[head * D + i]!;
        for (let i = 0; i < E; i++) ofValue![head * (plain + E) + plain + i] = 2 * v[head * E + i]!;
        const rope = back(Float64Array.from(k.subarray(head * D + plain, (head + 1) * D), (x) => 2 * x));
        for (let i = 0; i < R; i++) shared[token * R + i] = r(shared[token * R + i]! + rope[i]!);
      }
      return [dq, ofKey!, shared, ofValue!];
    },
    differentiable,
    dtypes: ['fp32'], // others round q, k and v in between
  };
}

export const cases: OpCase[] = (['interleaved', 'half'] as const).flatMap((layout) => [
  headsCase(layout, { B: 2, T: 3, H: 3, D: 10, R: 4, E: 5 }),
  headsCase(layout, { B: 1, T: 4, H: 2, D: 48, R: 16, E: 32 }),
  headsCase(layout, { B: 1, T: 3, H: 19, D: 24, R: 16, E: 16 }),
  headsCase(layout, { B: 1, T: 3, H: 1, D: 99, R: 42, E: 33 }),
  headsCase(layout, { B: 1, T: 2, H: 2, D: 6, R: 6, E: 3 }), // every dim of a key turns
  headsCase(layout, { B: 1, T: 2, H: 2, D: 5, R: 2, E: 1 }),
  headsCase(layout, { B: 1, T: 0, H: 2, D: 6, R: 4, E: 4 }),
  headsCase(layout, { B: 1, T: 400, H: 2, D: 20, R: 4, E: 16 }), // more than one thread's share
  oneHeadCase('k', layout, { B: 1, T: 3, H: 2, D: 10, R: 4, E: 5 }),
  oneHeadCase('v', layout, { B: 1, T: 3, H: 2, D: 10, R: 4, E: 5 }),
  secondOrderCase(layout, { B: 2, T: 3, H: 3, D: 10, R: 4, E: 5 }),
  headsCase(layout, { B: 8, T: 256, H: 8, D: 48, R: 16, E: 32 }, true),
]);
