// Arithmetic of fp32 and conversions: exact where the ISA says how to round, against sums and products of BigInt.
import { describe, expect, it } from 'vitest';
import { Rng } from '../support/rng.js';
import { lanewise, missing, run } from './machine.js';

const words = new Uint32Array(1);
const float = new Float32Array(words.buffer);
const bitsOf = (x: number) => {
  float[0] = x;
  return words[0] as number;
};
const floatOf = (bits: number) => {
  words[0] = bits;
  return float[0] as number;
};

type Mode = 'rn' | 'rz' | 'rm' | 'rp';
/** x as mantissa · 2^exponent; null where it is no number. */
function exact(x: number): { m: bigint; e: number } | null {
  if (!Number.isFinite(x)) return null;
  const bits = bitsOf(x);
  const exponent = (bits >>> 23) & 255;
  const m = BigInt((bits & 0x7fffff) | (exponent ? 0x800000 : 0));
  return { m: bits >>> 31 ? -m : m, e: Math.max(exponent, 1) - 150 };
}
/** m · 2^e in a format with `precision` bits and exponents from `least` on, rounded once. */
function rounded(m: bigint, e: number, mode: Mode, precision = 24, least = -149, most = 127): number {
  if (m === 0n) return 0;
  const negative = m < 0n;
  let magnitude = negative ? -m : m;
  let shift = Math.max(magnitude.toString(2).length - precision, least - e);
  if (shift > 0) {
    const rest = magnitude & ((1n << BigInt(shift)) - 1n);
    const half = 1n << BigInt(shift - 1);
    magnitude >>= BigInt(shift);
    const isUp =
      mode === 'rn'
        ? rest > half || (rest === half && (magnitude & 1n) === 1n)
        : rest > 0n && mode === (negative ? 'rm' : 'rp');
    if (isUp) magnitude += 1n;
  } else shift = 0;
  const x = Number(magnitude) * 2 ** Math.max(e + shift, -1000);
  const isTooLarge = x >= 2 ** (most + 1);
  const largest = (2 - 2 ** (1 - precision)) * 2 ** most;
  const away = mode === 'rn' || mode === (negative ? 'rm' : 'rp');
  const result = isTooLarge ? (away ? Number.POSITIVE_INFINITY : largest) : x;
  return negative ? -result : result;
}

const special = [
  0,
  -0,
  1,
  -1,
  0.5,
  3,
  1e-45,
  -1e-45,
  2 ** -126,
  2 ** -127,
  -(2 ** -149),
  65504,
  65520,
  1e38,
  -3e38,
  3.4028234663852886e38,
  Number.POSITIVE_INFINITY,
  Number.NEGATIVE_INFINITY,
  Number.NaN,
  1 + 2 ** -23,
];
const count = 2048;
function inputs(seed: string): Float32Array {
  const rng = new Rng(seed);
  return Float32Array.from({ length: count }, (_, i) => {
    if (seed === 'a' && i < special.length ** 2) return special[i % special.length] as number;
    if (seed === 'b' && i < special.length ** 2) return special[Math.floor(i / special.length)] as number;
    // Of like size, so that sums cancel and round; else any bits.
    return i % 2 === 0 ? rng.normal() * 2 ** (rng.integer(8) - 4) : floatOf((rng.uniform() * 2 ** 32) >>> 0);
  });
}
const [a, b, c] = [inputs('a'), inputs('b'), inputs('c')];
const flush = (x: number) => (Math.abs(x) < 2 ** -126 ? (x < 0 || Object.is(x, -0) ? -0 : 0) : x);

/** Runs one instruction a row, `%d<n> = f(%a, %b, %c)`, over the inputs. */
function results(forms: readonly string[]): Float32Array[] {
  const out = forms.map(() => new Float32Array(count));
  const body = forms.map((form, n) => `${form.replace(/%d\b/, `%d${n}`)};`).join('\n');
  run(lanewise({ a: 'f32', b: 'f32', c: 'f32' }, Object.fromEntries(forms.map((_, n) => [`d${n}`, 'f32'])), body), {
    grid: [count / 64],
    threads: [64],
    arguments: [a, b, c, ...out],
  });
  return out;
}
function check(label: string, got: Float32Array, of: (a: number, b: number, c: number) => number): void {
  for (let i = 0; i < count; i++) {
    const [x, y, z] = [a[i], b[i], c[i]] as [number, number, number];
    const expected = Math.fround(of(x, y, z));
    // NaN is the canonical one.
    if (Number.isNaN(expected) ? bitsOf(got[i] as number) === 0x7fffffff : Object.is(got[i], expected)) continue;
    if (Number.isNaN(expected) && Number.isNaN(got[i])) continue; // a copy through a typed array may change its bits
    expect(`${label} of ${x}, ${y}, ${z}: ${got[i]}`).toBe(`${Object.is(expected, -0) ? '-0' : expected}`);
  }
}

describe.skipIf(missing !== '')(`arithmetic of fp32${missing}`, () => {
  const modes: Mode[] = ['rn', 'rz', 'rm', 'rp'];
  it('add, sub, mul and fma round once, in four ways', () => {
    const forms: string[] = [];
    const references: ((a: number, b: number, c: number) => number)[] = [];
    for (const mode of modes) {
      /** a·b + c from its parts; what is not finite, and signs of zeros, from doubles. */
      const fused = (x: number, y: number, z: number) => {
        const [p, q, r] = [exact(x), exact(y), exact(z)];
        const product = x * y;
        if (!p || !q || !r) return p && q && !r ? z : product + z;
        const e = Math.min(p.e + q.e, r.e);
        const sum = ((p.m * q.m) << BigInt(p.e + q.e - e)) + (r.m << BigInt(r.e - e));
        if (sum !== 0n) return rounded(sum, e, mode);
        const isExactZero = p.m * q.m === 0n && r.m === 0n;
        const sign = (t: number) => (t < 0 || Object.is(t, -0) ? -1 : 1);
        if (isExactZero && sign(product) === sign(z)) return z;
        return mode === 'rm' ? -0 : 0;
      };
      forms.push(`add.${mode}.f32 %d, %a, %b`, `sub.${mode}.f32 %d, %a, %b`, `fma.${mode}.f32 %d, %a, %b, %c`);
      references.push(
        (x, y) => fused(x, 1, y),
        (x, y) => (Number.isNaN(y) ? y : fused(x, 1, -y)),
        fused,
      );
      forms.push(`mul.${mode}.f32 %d, %a, %b`);
      references.push((x, y) => {
        const [p, q] = [exact(x), exact(y)];
        if (!p || !q || p.m * q.m === 0n) return x * y;
        return rounded(p.m * q.m, p.e + q.e, mode) || (x * y < 0 || Object.is(x * y, -0) || x < 0 !== y < 0 ? -0 : 0);
      });
    }
    for (const [n, got] of results(forms).entries())
      check(forms[n] as string, got, references[n] as (typeof references)[0]);
  });

  it('division and roots round to nearest; what is approximate is within an ulp; ftz flushes', () => {
    const rows: [string, (a: number, b: number, c: number) => number][] = [
      ['div.rn.f32 %d, %a, %b', (x, y) => x / y],
      ['rcp.rn.f32 %d, %a', (x) => 1 / x],
      ['sqrt.rn.f32 %d, %a', (x) => Math.sqrt(x)],
      ['add.ftz.f32 %d, %a, %b', (x, y) => flush(Math.fround(flush(x) + flush(y)))],
      ['mul.ftz.f32 %d, %a, %b', (x, y) => flush(Math.fround(flush(x) * flush(y)))],
      ['mul.sat.f32 %d, %a, %b', (x, y) => (x * y > 1 ? 1 : x * y > 0 ? x * y : 0)],
      ['neg.f32 %d, %a', (x) => -x],
      ['abs.f32 %d, %a', (x) => Math.abs(x)],
      // The first operand gives the sign.
      ['copysign.f32 %d, 0fBF800000, %b', (_, y) => -Math.abs(y)],
      ['copysign.f32 %d, 0f00000000, %b', (_, y) => Math.abs(y)],
      ['min.f32 %d, %a, %b', (x, y) => (Number.isNaN(x) ? y : Number.isNaN(y) ? x : Math.min(x, y))],
      ['max.f32 %d, %a, %b', (x, y) => (Number.isNaN(x) ? y : Number.isNaN(y) ? x : Math.max(x, y))],
      ['max.NaN.f32 %d, %a, %b', (x, y) => Math.max(x, y)],
      ['cvt.sat.f32.f32 %d, %a', (x) => (x > 1 ? 1 : x > 0 ? x : 0)],
      [
        'cvt.rni.f32.f32 %d, %a',
        (x) =>
          Number.isInteger(x) || !Number.isFinite(x)
            ? x
            : Math.abs(x) < 0.5
              ? x * 0
              : rounded((exact(x) as { m: bigint }).m, (exact(x) as { e: number }).e, 'rn', 24, 0),
      ],
      ['cvt.rzi.f32.f32 %d, %a', (x) => Math.trunc(x)],
      ['cvt.rmi.f32.f32 %d, %a', (x) => Math.floor(x)],
      ['cvt.rpi.f32.f32 %d, %a', (x) => Math.ceil(x)],
    ];
    for (const [n, got] of results(rows.map(([form]) => form)).entries()) {
      const [form, of] = rows[n] as (typeof rows)[0];
      check(form, got, of);
    }
    const close: [string, (a: number) => number][] = [
      ['ex2.approx.f32 %d, %a', (x) => 2 ** x],
      ['lg2.approx.f32 %d, %a', (x) => Math.log2(x)],
      ['rsqrt.approx.f32 %d, %a', (x) => 1 / Math.sqrt(x)],
      ['rcp.approx.ftz.f32 %d, %a', (x) => flush(1 / flush(x))],
      ['sin.approx.f32 %d, %a', (x) => Math.sin(x)],
      ['cos.approx.f32 %d, %a', (x) => Math.cos(x)],
      ['tanh.approx.f32 %d, %a', (x) => Math.tanh(x)],
    ];
    for (const [n, got] of results(close.map(([form]) => form)).entries()) {
      const [form, of] = close[n] as (typeof close)[0];
      for (let i = 0; i < count; i++) {
        const [x, y] = [a[i] as number, got[i] as number];
        const expected = of(x);
        if (Object.is(Math.fround(expected), y) || Math.abs(y / expected - 1) < 2e-7 || Math.abs(y - expected) < 2e-45)
          continue;
        expect(`${form} of ${x}: ${y}`).toBe(`${expected}`);
      }
    }
  });

  it('comparisons with NaN, and classes of numbers', () => {
    const names = ['eq', 'ne', 'lt', 'le', 'gt', 'ge', 'num'];
    const opposite = { equ: 'ne', neu: 'eq', ltu: 'ge', leu: 'gt', gtu: 'le', geu: 'lt', nan: 'num' } as const;
    const holds: Record<string, (x: number, y: number) => boolean> = {
      eq: (x, y) => x === y,
      ne: (x, y) => x < y || x > y,
      lt: (x, y) => x < y,
      le: (x, y) => x <= y,
      gt: (x, y) => x > y,
      ge: (x, y) => x >= y,
      num: (x, y) => !Number.isNaN(x) && !Number.isNaN(y),
    };
    for (const [name, other] of Object.entries(opposite)) holds[name] = (x, y) => !holds[other]?.(x, y);
    const all = [...names, ...Object.keys(opposite)];
    const classes: Record<string, (x: number) => boolean> = {
      finite: Number.isFinite,
      infinite: (x) => Math.abs(x) === Number.POSITIVE_INFINITY,
      number: (x) => !Number.isNaN(x),
      notanumber: Number.isNaN,
      normal: (x) => Number.isFinite(x) && Math.abs(x) >= 2 ** -126,
      subnormal: (x) => x !== 0 && Math.abs(x) < 2 ** -126,
    };
    const tests = [
      ...all.map((name) => [`setp.${name}.f32 %p1, %a, %b`, holds[name]] as const),
      ...Object.entries(classes).map(([name, is]) => [`testp.${name}.f32 %p1, %a`, is] as const),
    ];
    const out = results(tests.map(([form]) => `${form}; selp.f32 %d, 0f3F800000, 0f00000000, %p1`));
    for (const [n, [form, is]] of tests.entries())
      check(form, out[n] as Float32Array, (x, y) => Number((is as (x: number, y: number) => boolean)(x, y)));
  });
});

describe.skipIf(missing !== '')(`conversions${missing}`, () => {
  const half = (bits: number) => {
    const exponent = (bits >> 10) & 31;
    const fraction = bits & 1023;
    const magnitude =
      exponent === 31
        ? fraction
          ? Number.NaN
          : Number.POSITIVE_INFINITY
        : exponent
          ? (1 + fraction / 1024) * 2 ** (exponent - 15)
          : fraction * 2 ** -24;
    return bits >> 15 ? -magnitude : magnitude;
  };

  it('every half and bfloat16 to fp32 and back', () => {
    const all = Uint16Array.from({ length: 65536 }, (_, i) => i);
    const wide = new Float32Array(65536);
    const [again, brain] = [new Uint16Array(65536), new Uint16Array(65536)];
    run(
      lanewise(
        { a: 'b16' },
        { d: 'f32', e: 'b16', f: 'b16' },
        '.reg .f32 %g; cvt.f32.f16 %d, %a; cvt.rn.f16.f32 %e, %d; mov.b32 %g, {0, %a}; cvt.rn.bf16.f32 %f, %g;',
      ),
      { grid: [64], threads: [1024], arguments: [all, wide, again, brain] },
    );
    for (let i = 0; i < 65536; i++) {
      const isNaNHalf = (i & 0x7c00) === 0x7c00 && (i & 0x3ff) !== 0;
      const isNaNBrain = (i & 0x7f80) === 0x7f80 && (i & 0x7f) !== 0;
      if (
        !Object.is(wide[i], half(i)) ||
        again[i] !== (isNaNHalf ? 0x7fff : i) ||
        brain[i] !== (isNaNBrain ? 0x7fff : i)
      )
        expect([i, wide[i], again[i], brain[i]]).toEqual([i, half(i), isNaNHalf ? 0x7fff : i, isNaNBrain ? 0x7fff : i]);
    }
  });

  it('fp32 to 16 bits rounds to nearest even, alone and in pairs', () => {
    const rng = new Rng('halves');
    const n = 1 << 16;
    // Any bits; numbers of a half's size; and ties between halves and between bfloat16s.
    const x = Float32Array.from({ length: n }, (_, i) => {
      if (i % 4 === 0) return floatOf((rng.uniform() * 2 ** 32) >>> 0);
      if (i % 4 === 1) return rng.normal() * 2 ** (rng.integer(44) - 28);
      if (i % 4 === 2) return floatOf(bitsOf(half(rng.integer(65536))) + 0x1000 + rng.integer(3) - 1);
      return floatOf(((rng.integer(65536) << 16) | (0x8000 + rng.integer(3) - 1)) >>> 0);
    });
    const [f16, bf16] = [new Uint16Array(n), new Uint16Array(n)];
    const [halves, brains] = [new Uint32Array(n), new Uint32Array(n)];
    run(
      lanewise(
        { a: 'f32' },
        { d: 'b16', e: 'b16', f: 'b32', g: 'b32' },
        'cvt.rn.f16.f32 %d, %a; cvt.rn.bf16.f32 %e, %a; cvt.rn.f16x2.f32 %f, %a, 0f3F800000; cvt.rn.bf16x2.f32 %g, 0f3F800000, %a;',
      ),
      { grid: [n / 256], threads: [256], arguments: [x, f16, bf16, halves, brains] },
    );
    for (let i = 0; i < n; i++) {
      const value = x[i] as number;
      const parts = exact(value);
      const expected = parts ? rounded(parts.m, parts.e, 'rn', 11, -24, 15) : value;
      const wide = parts ? rounded(parts.m, parts.e, 'rn', 8, -133, 127) : value;
      const same = (got: number, want: number) => (Number.isNaN(want) ? Number.isNaN(got) : got === want);
      const isRight =
        same(half(f16[i] as number), expected) &&
        same(floatOf(((bf16[i] as number) << 16) >>> 0), wide) &&
        // The first source of a pair lies in the upper half.
        halves[i] === (((f16[i] as number) << 16) | 0x3c00) >>> 0 &&
        brains[i] === (0x3f800000 | (bf16[i] as number)) >>> 0;
      if (!isRight)
        expect([value, half(f16[i] as number), floatOf((bf16[i] as number) << 16), halves[i], brains[i]]).toEqual([
          expected,
          wide,
        ]);
    }
  });

  it('to integers: rounded, clamped, NaN as the ISA says', () => {
    const x = Float32Array.from([
      0.5,
      1.5,
      2.5,
      -0.5,
      -1.5,
      2 ** 31,
      -(2 ** 31),
      2 ** 40,
      -(2 ** 40),
      2 ** 63,
      2 ** 64,
      -(2 ** 63),
      Number.POSITIVE_INFINITY,
      Number.NEGATIVE_INFINITY,
      Number.NaN,
      255.5,
      256,
      -1,
      70000,
      3.999,
      -3.999,
      2 ** 24 + 2,
      1e-40,
      0,
      1,
      2,
      3,
      4,
      5,
      6,
      7,
      8,
    ]);
    const rounds: Record<string, (x: number) => number> = {
      rni: (v) => (Math.abs(v % 1) === 0.5 ? 2 * Math.round(v / 2) : Math.round(v)),
      rzi: Math.trunc,
      rmi: Math.floor,
      rpi: Math.ceil,
    };
    const rows = ['s32', 'u32', 's64', 'u64', 's16', 'u8'].flatMap((type) =>
      Object.keys(rounds).map((round) => ({ type, round })),
    );
    const width = (type: string) => Number(type.slice(1));
    const out = rows.map(() => new BigUint64Array(32));
    const body = rows.map(({ type, round }, n) => `cvt.${round}.${type}.f32 %d${n}, %a;`).join('\n');
    run(lanewise({ a: 'f32' }, Object.fromEntries(rows.map((_, n) => [`d${n}`, 'u64'])), body), {
      arguments: [x, ...out],
    });
    for (const [n, { type, round }] of rows.entries())
      for (const [i, value] of x.entries()) {
        const bits = width(type);
        const [least, most] = type.startsWith('s')
          ? [-(1n << BigInt(bits - 1)), (1n << BigInt(bits - 1)) - 1n]
          : [0n, (1n << BigInt(bits)) - 1n];
        const whole = (rounds[round] as (x: number) => number)(value);
        let expected = Number.isNaN(value)
          ? bits === 64
            ? 1n << 63n
            : 0n
          : whole === Number.POSITIVE_INFINITY
            ? most
            : whole === Number.NEGATIVE_INFINITY
              ? least
              : BigInt(whole);
        if (!Number.isNaN(value)) expected = expected < least ? least : expected > most ? most : expected;
        // Extended to the register by its sign.
        const got = BigInt.asUintN(64, expected);
        if (out[n]?.[i] !== got) expect(`cvt.${round}.${type}.f32 of ${value}: ${out[n]?.[i]}`).toBe(`${got}`);
      }
  });

  it('from integers, between integers, between fp32 and fp64', () => {
    const n = 256;
    const rng = new Rng('integers');
    const wide = BigInt64Array.from({ length: n }, (_, i) =>
      BigInt.asIntN(
        64,
        ((BigInt(Math.floor(rng.uniform() * 2 ** 32)) << 32n) | BigInt(Math.floor(rng.uniform() * 2 ** 32))) >>
          BigInt(i % 64),
      ),
    );
    const doubles = Float64Array.from({ length: n }, () => rng.normal() * 2 ** (rng.integer(300) - 150));
    const outputs = { f: 'f32', z: 'f32', u: 'f32', g: 'f64', s: 's64', h: 'u64', c: 's64', n: 'f32', m: 'f32' };
    const [f, z, u] = [new Float32Array(n), new Float32Array(n), new Float32Array(n)];
    const g = new Float64Array(n);
    const [s, h, c] = [new BigInt64Array(n), new BigUint64Array(n), new BigInt64Array(n)];
    const [near, down] = [new Float32Array(n), new Float32Array(n)];
    run(
      lanewise(
        { a: 's64', b: 'f64' },
        outputs,
        `cvt.rn.f32.s64 %f, %a; cvt.rz.f32.s64 %z, %a; cvt.rn.f32.u64 %u, %a; cvt.rn.f64.s64 %g, %a; cvt.s64.s8 %s, %a;
         cvt.u64.u16 %h, %a; cvt.sat.s16.s64 %c, %a; cvt.rn.f32.f64 %n, %b; cvt.rm.f32.f64 %m, %b;`,
      ),
      { grid: [n / 64], threads: [64], arguments: [wide, doubles, f, z, u, g, s, h, c, near, down] },
    );
    for (let i = 0; i < n; i++) {
      const x = wide[i] as bigint;
      const d = doubles[i] as number;
      const fraction = Math.fround(d) > d;
      expect([f[i], z[i], u[i], g[i], s[i], h[i], c[i], near[i]]).toEqual([
        rounded(x, 0, 'rn'),
        rounded(x, 0, 'rz'),
        rounded(BigInt.asUintN(64, x), 0, 'rn'),
        Number(x),
        BigInt.asIntN(8, x),
        BigInt.asUintN(16, x),
        x > 32767n ? 32767n : x < -32768n ? -32768n : x,
        Math.fround(d),
      ]);
      if (fraction ? (down[i] as number) >= (near[i] as number) : down[i] !== near[i])
        expect([d, down[i]]).toBe('rounded down');
    }
  });
});
