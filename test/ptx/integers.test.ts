// Integer instructions against BigInt: a row a form, with what the ISA says of it.
import { describe, expect, it } from 'vitest';
import { Rng } from '../support/rng.js';
import { lanewise, missing, run } from './machine.js';

const count = 1024;
const edges: Record<number, bigint[]> = {};
for (const width of [16, 32, 64]) {
  const top = 1n << BigInt(width - 1);
  edges[width] = [0n, 1n, 2n, 3n, top - 1n, top, top + 1n, 2n * top - 1n, 2n * top - 2n, 0x80n, 0xffn, 31n, 32n, 33n];
}
function numbers(seed: string, width: number): bigint[] {
  const rng = new Rng(seed);
  const random = () =>
    BigInt.asUintN(
      width,
      (BigInt(Math.floor(rng.uniform() * 2 ** 32)) << 32n) | BigInt(Math.floor(rng.uniform() * 2 ** 32)),
    );
  const list = edges[width] as bigint[];
  return Array.from({ length: count }, (_, i) => {
    if (seed === 'a' && i < list.length ** 2) return list[i % list.length] as bigint;
    if (seed !== 'a' && i < list.length ** 2) return list[Math.floor(i / list.length)] as bigint;
    return random() >> BigInt(i % 4 === 0 ? Math.floor(rng.uniform() * width) : 0);
  });
}
const arrayOf = (width: number, values: bigint[]) => {
  if (width === 64) return new BigUint64Array(values);
  return width === 32 ? new Uint32Array(values.map(Number)) : new Uint16Array(values.map(Number));
};

const s = (x: bigint, width: number) => BigInt.asIntN(width, x);
const typed = (type: string, x: bigint) => (type.startsWith('s') ? s(x, Number(type.slice(1))) : x);
const abs = (x: bigint) => (x < 0n ? -x : x);
const clamp = (n: bigint, most: number) => (n > BigInt(most) ? BigInt(most) : n);

interface Row {
  form: string;
  /** Types of the result and of a, b, c. */
  types: string[];
  of: (a: bigint, b: bigint, c: bigint) => bigint;
  /** After the operands. */
  last?: string;
}
const rows: Row[] = [];
const add = (form: string, types: string[], of: Row['of'], last?: string) =>
  rows.push({ form, types, of, ...(last === undefined ? {} : { last }) });

for (const width of [16, 32, 64])
  for (const sign of ['u', 's']) {
    const t = `${sign}${width}`;
    const of =
      (f: Row['of']): Row['of'] =>
      (a, b, c) =>
        f(typed(t, a), typed(t, b), typed(t, c));
    add(
      `add.${t}`,
      [t, t, t],
      of((a, b) => a + b),
    );
    add(
      `sub.${t}`,
      [t, t, t],
      of((a, b) => a - b),
    );
    add(
      `mul.lo.${t}`,
      [t, t, t],
      of((a, b) => a * b),
    );
    add(
      `mul.hi.${t}`,
      [t, t, t],
      of((a, b) => (a * b) >> BigInt(width)),
    );
    add(
      `mad.lo.${t}`,
      [t, t, t, t],
      of((a, b, c) => a * b + c),
    );
    add(
      `mad.hi.${t}`,
      [t, t, t, t],
      of((a, b, c) => ((a * b) >> BigInt(width)) + c),
    );
    add(
      `min.${t}`,
      [t, t, t],
      of((a, b) => (a < b ? a : b)),
    );
    add(
      `max.${t}`,
      [t, t, t],
      of((a, b) => (a > b ? a : b)),
    );
    // Division by zero is open; what GPUs give is kept here so that it is one thing.
    add(
      `div.${t}`,
      [t, t, t],
      of((a, b) => (b === 0n ? -1n : a / b)),
    );
    add(
      `rem.${t}`,
      [t, t, t],
      of((a, b) => (b === 0n ? a : a % b)),
    );
    add(`shr.${t}`, [t, t, 'u32'], (a, b) => typed(t, a) >> clamp(b, width));
    if (width < 64) {
      const wide = `${sign}${2 * width}`;
      add(
        `mul.wide.${t}`,
        [wide, t, t],
        of((a, b) => a * b),
      );
      add(`mad.wide.${t}`, [wide, t, t, wide], (a, b, c) => typed(t, a) * typed(t, b) + typed(wide, c));
    }
    if (width > 16) {
      const top = (a: bigint) => (typed(t, a) < 0n ? ~typed(t, a) : typed(t, a));
      const bit = (x: bigint) => (x === 0n ? -1n : BigInt(x.toString(2).length - 1));
      add(`bfind.${t}`, ['u32', t], (a) => bit(top(a)));
      add(`bfind.shiftamt.${t}`, ['u32', t], (a) => (top(a) === 0n ? -1n : BigInt(width - 1) - bit(top(a))));
      add(`bfe.${t}`, [t, t, 'u32', 'u32'], (a, b, c) => {
        const [from, length] = [b & 0xffn, c & 0xffn];
        const field = (from >= BigInt(width) ? (typed(t, a) < 0n ? -1n : 0n) : typed(t, a) >> from) as bigint;
        if (length === 0n) return 0n;
        return sign === 's'
          ? s(field, Number(clamp(length, width)))
          : BigInt.asUintN(Number(clamp(length, width)), field);
      });
    }
    if (sign === 's') {
      add(
        `abs.${t}`,
        [t, t],
        of((a) => abs(a)),
      );
      add(
        `neg.${t}`,
        [t, t],
        of((a) => -a),
      );
    }
  }
for (const width of [16, 32, 64]) {
  const t = `b${width}`;
  add(`and.${t}`, [t, t, t], (a, b) => a & b);
  add(`or.${t}`, [t, t, t], (a, b) => a | b);
  add(`xor.${t}`, [t, t, t], (a, b) => a ^ b);
  add(`not.${t}`, [t, t], (a) => ~a);
  add(`cnot.${t}`, [t, t], (a) => (a === 0n ? 1n : 0n));
  add(`shl.${t}`, [t, t, 'u32'], (a, b) => a << clamp(b, width));
  if (width === 16) continue;
  const text = (x: bigint) => x.toString(2).padStart(width, '0');
  add(`popc.${t}`, ['u32', t], (a) => BigInt([...text(a)].filter((bit) => bit === '1').length));
  add(`clz.${t}`, ['u32', t], (a) => (a === 0n ? BigInt(width) : BigInt(text(a).indexOf('1'))));
  add(`brev.${t}`, [t, t], (a) => BigInt(`0b${[...text(a)].reverse().join('')}`));
  // Field of 11 bits at c's place.
  add(
    `bfi.${t}`,
    [t, t, t, 'u32'],
    (a, b, c) => {
      const from = c & 0xffn;
      const field = BigInt.asUintN(width, 0x7ffn << from);
      return (b & ~field) | ((a << from) & field);
    },
    ', 11',
  );
}
const both = (a: bigint, b: bigint) => (b << 32n) | a;
add('shf.l.wrap.b32', ['b32', 'b32', 'b32', 'u32'], (a, b, c) => (both(a, b) << (c & 31n)) >> 32n);
add('shf.r.wrap.b32', ['b32', 'b32', 'b32', 'u32'], (a, b, c) => both(a, b) >> (c & 31n));
add('shf.l.clamp.b32', ['b32', 'b32', 'b32', 'u32'], (a, b, c) => (both(a, b) << clamp(c, 32)) >> 32n);
add('shf.r.clamp.b32', ['b32', 'b32', 'b32', 'u32'], (a, b, c) => both(a, b) >> clamp(c, 32));
add('prmt.b32', ['b32', 'b32', 'b32', 'u32'], (a, b, c) => {
  let d = 0n;
  for (let n = 0n; n < 4n; n++) {
    const selector = (c >> (4n * n)) & 15n;
    const byte = (both(a, b) >> (8n * (selector & 7n))) & 0xffn;
    d |= (selector & 8n ? (byte & 0x80n ? 0xffn : 0n) : byte) << (8n * n);
  }
  return d;
});
add('lop3.b32', ['b32', 'b32', 'b32', 'b32'], (a, b, c) => (a & b) ^ ~c, ', 149');
add('sad.s32', ['s32', 's32', 's32', 's32'], (a, b, c) => c + abs(s(a, 32) - s(b, 32)));
add('add.sat.s32', ['s32', 's32', 's32'], (a, b) => {
  const sum = s(a, 32) + s(b, 32);
  return sum > 0x7fffffffn ? 0x7fffffffn : sum < -0x80000000n ? -0x80000000n : sum;
});
add('mul24.lo.s32', ['s32', 's32', 's32'], (a, b) => s(a, 24) * s(b, 24));
add('dp4a.u32.s32', ['s32', 'u32', 's32', 's32'], (a, b, c) => {
  let sum = c;
  for (let n = 0n; n < 32n; n += 8n) sum += ((a >> n) & 0xffn) * s((b >> n) & 0xffn, 8);
  return sum;
});
for (const [name, holds] of Object.entries({
  eq: (a: bigint, b: bigint) => a === b,
  ne: (a: bigint, b: bigint) => a !== b,
  lt: (a: bigint, b: bigint) => a < b,
  le: (a: bigint, b: bigint) => a <= b,
  gt: (a: bigint, b: bigint) => a > b,
  ge: (a: bigint, b: bigint) => a >= b,
}))
  for (const t of ['u16', 's16', 'u32', 's32', 'u64', 's64'])
    add(`setp.${name}.${t}`, ['u32', t, t], (a, b) => (holds(typed(t, a), typed(t, b)) ? 1n : 0n));

/** All rows in one kernel: the result of row n goes to output n. */
function instructionOf({ form, types, last = '' }: Row, n: number): string {
  const operands = types
    .slice(1)
    .map((type, k) => `%${'abc'[k]}${/\d+/.exec(type)?.[0]}`)
    .join(', ');
  if (form.startsWith('setp')) return `${form} %p1, ${operands}; selp.u32 %d${n}, 1, 0, %p1;`;
  return `${form} %d${n}, ${operands}${last};`;
}

describe.skipIf(missing !== '')(`integer instructions${missing}`, () => {
  it(`${rows.length} forms are BigInt's`, () => {
    const inputs: Record<string, string> = {};
    const data = [];
    const values: Record<string, bigint[]> = {};
    for (const width of [16, 32, 64])
      for (const name of ['a', 'b', 'c']) {
        inputs[`${name}${width}`] = `b${width}`;
        const list = numbers(name, width);
        // Every third one a small number, as counts of shifts and fields are.
        if (name !== 'a' && width === 32) for (let i = 200; i < count; i += 3) list[i] = (list[i] as bigint) & 0x7fn;
        values[`${name}${width}`] = list;
        data.push(arrayOf(width, list));
      }
    const outputs = Object.fromEntries(
      rows.map(({ types }, n) => [`d${n}`, `b${/\d+/.exec(types[0] as string)?.[0]}`]),
    );
    const results = rows.map(({ types }) =>
      arrayOf(Number(/\d+/.exec(types[0] as string)?.[0]), Array(count).fill(0n)),
    );
    run(lanewise(inputs, outputs, rows.map(instructionOf).join('\n')), {
      grid: [count / 128],
      threads: [128],
      arguments: [...data, ...results],
    });
    for (const [n, { form, types, of }] of rows.entries()) {
      const width = Number(/\d+/.exec(types[0] as string)?.[0]);
      const at = (k: number, i: number) =>
        (values[`${'abc'[k]}${/\d+/.exec(types[k + 1] ?? 'b32')?.[0]}`] as bigint[])[i] as bigint;
      for (let i = 0; i < count; i++) {
        const expected = BigInt.asUintN(width, of(at(0, i), at(1, i), at(2, i)));
        const got = BigInt((results[n] as BigUint64Array)[i] as bigint);
        if (got !== expected) expect(`${form} ${at(0, i)}, ${at(1, i)}, ${at(2, i)} is ${got}`).toBe(`${expected}`);
      }
    }
  });

  it('combines comparisons with predicates, and gives the opposite too', () => {
    const a = Int32Array.from({ length: 32 }, (_, i) => i - 16);
    const out = ['and', 'or', 'xor'].map(() => new Uint32Array(32));
    const other = ['and', 'or', 'xor'].map(() => new Uint32Array(32));
    const body = ['and', 'or', 'xor']
      .map(
        (name, n) => `setp.gt.s32 %p1, %a, 7; setp.lt.${name}.s32 %p2|%p3, %a, 0, ${n === 1 ? '!' : ''}%p1;
          selp.u32 %x${n}, 1, 0, %p2; selp.u32 %y${n}, 1, 0, %p3;`,
      )
      .join('\n');
    run(lanewise({ a: 's32' }, { x0: 'u32', x1: 'u32', x2: 'u32', y0: 'u32', y1: 'u32', y2: 'u32' }, body), {
      arguments: [a, ...out, ...other],
    });
    const results = (f: (less: boolean, more: boolean) => boolean, less: (x: number) => boolean) =>
      Uint32Array.from(a, (x) => Number(f(less(x), x > 7)));
    for (const [n, f] of [
      (p: boolean, q: boolean) => p && q,
      (p: boolean, q: boolean) => p || !q,
      (p: boolean, q: boolean) => p !== q,
    ].entries()) {
      expect(out[n]).toEqual(results(f, (x) => x < 0));
      expect(other[n]).toEqual(results(f, (x) => x >= 0));
    }
  });
});
