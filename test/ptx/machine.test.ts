// Memory, branches, threads together: what a block sees, and what is reported when it goes wrong.
import { describe, expect, it } from 'vitest';
import { Rng } from '../support/rng.js';
import { launch, missing, ptxFile, run } from './machine.js';

const iota = (n: number, f = (i: number) => i) => Uint32Array.from({ length: n }, (_, i) => f(i));
/** A kernel with one buffer, whose thread's place is %at and thread %t; with 128 bytes of shared memory `m`, and more. */
const kernel = (body: string, before = '') => `${before}
  .extern .shared .align 128 .b8 m[];
  .visible .entry k(.param .u64 p) {
    .reg .pred %p<9>; .reg .b16 %h<9>; .reg .b32 %r<40>; .reg .b64 %d<20>; .reg .f32 %f<20>; .reg .b32 %t, %v; .reg .b64 %at, %base;
    ld.param.u64 %base, [p]; cvta.to.global.u64 %base, %base; mov.u32 %t, %tid.x; mul.wide.u32 %at, %t, 4; add.s64 %at, %base, %at;
    ${body}
    ret;
  }`;
const errorOf = (f: () => void): string => {
  try {
    f();
  } catch (error) {
    return (error as Error).message;
  }
  return 'no error';
};

describe.skipIf(missing !== '')(`memory${missing}`, () => {
  it('vectors, extensions by sign, constants, shared memory by its own and by generic addresses', () => {
    const data = iota(64, (i) => i * 0x01010101);
    run(
      kernel(
        `mul.wide.u32 %d1, %t, 16; add.s64 %d2, %base, %d1; setp.gt.u32 %p1, %t, 15; @%p1 bra $done;
         ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%r1, %r2, %r3, %r4}, [%d2];
         ld.global.s8 %r5, [%d2+5]; add.s32 %r1, %r1, %r5;
         mov.u32 %r6, m; mad.lo.s32 %r6, %t, 16, %r6; st.shared.v4.b32 [%r6], {%r1, %r2, %r3, %r4};
         cvta.shared.u64 %d3, %d4; mov.u64 %d4, m; cvta.shared.u64 %d3, %d4; mul.wide.u32 %d5, %t, 16; add.s64 %d3, %d3, %d5;
         isspacep.shared %p2, %d3; isspacep.global %p3, %d3; ld.v2.u32 {%r7, %r8}, [%d3]; cvta.to.shared.u64 %d6, %d3;
         ld.shared.v2.b32 {%r9, _}, [%d6+8]; selp.u32 %r10, 100, 200, %p2; selp.u32 %r11, 1000, 2000, %p3;
         ld.const.u32 %r12, [table+8]; add.s32 %r10, %r10, %r11; add.s32 %r10, %r10, %r12;
         st.global.v4.u32 [%d2], {%r7, %r8, %r9, %r10};
        $done:`,
        '.const .align 4 .u32 table[3] = {7, 8, 9};',
      ),
      { shared: 512, arguments: [data] },
    );
    const expected = iota(64);
    for (let t = 0; t < 16; t++) {
      const word = (n: number) => (4 * t + n) * 0x01010101;
      const byte = ((4 * t + 1) << 24) >> 24;
      expected.set([word(0) + byte, word(1), word(2), 2109], 4 * t);
    }
    expect(data).toEqual(expected);
  });

  it('parameters by value, at an index known only when it runs; local memory; calls', () => {
    const out = iota(32);
    const table = Float32Array.from({ length: 8 }, (_, i) => i / 8);
    run(
      `.func (.param .b32 result) square(.param .b32 x) {
         .reg .f32 %f<3>; ld.param.f32 %f1, [x]; mul.f32 %f2, %f1, %f1; st.param.f32 [result], %f2; ret; }
       .visible .entry k(.param .align 8 .b8 values[32], .param .u64 p) {
         .local .align 16 .b8 stack[64]; .reg .b64 %SP, %SPL; .reg .b32 %r<5>; .reg .b64 %d<9>; .reg .f32 %f<5>;
         mov.u64 %SPL, stack; cvta.local.u64 %SP, %SPL;
         mov.u32 %r1, %tid.x; and.b32 %r2, %r1, 7; mul.wide.u32 %d1, %r2, 4; mov.b64 %d2, values; add.s64 %d2, %d2, %d1;
         ld.param.f32 %f1, [%d2];
         { .param .b32 in; st.param.f32 [in], %f1; .param .b32 back; call.uni (back), square, (in); ld.param.f32 %f2, [back]; }
         add.s64 %d3, %SP, %d1; st.f32 [%d3+32], %f2; cvta.to.local.u64 %d4, %d3; ld.local.f32 %f3, [%d4+32];
         ld.param.u64 %d5, [p]; mul.wide.u32 %d6, %r1, 4; add.s64 %d5, %d5, %d6; st.global.f32 [%d5], %f3; ret; }`,
      { arguments: [{ value: table }, out] },
    );
    expect(new Float32Array(out.buffer)).toEqual(Float32Array.from({ length: 32 }, (_, i) => (i % 8) ** 2 / 64));
  });

  it('nobody has written it: NaN in shared memory; a copy is there when it has been waited for', () => {
    const data = iota(64, (i) => i + 1);
    run(
      kernel(
        `mov.u32 %r1, m; mad.lo.s32 %r1, %t, 4, %r1; ld.shared.u32 %r2, [%r1];
         setp.lt.u32 %p1, %t, 16; selp.b32 %r9, 4, 0, %p1;
         cp.async.ca.shared.global [%r1], [%at], 4, %r9; cp.async.commit_group;
         ld.shared.u32 %r3, [%r1]; cp.async.wait_group 1; ld.shared.u32 %r4, [%r1];
         cp.async.wait_group 0; ld.shared.u32 %r5, [%r1];
         setp.eq.u32 %p2, %r2, -1; setp.eq.and.u32 %p3, %r3, -1, %p2; setp.eq.and.u32 %p4, %r4, -1, %p3;
         selp.b32 %r6, 100, 0, %p4; add.s32 %r5, %r5, %r6; st.global.u32 [%at], %r5;`,
      ),
      { shared: 128, arguments: [data] },
    );
    expect(data.slice(0, 32)).toEqual(iota(32, (i) => (i < 16 ? i + 101 : 100)));
  });

  it('atomics count, and say what was there', () => {
    const data = iota(40, () => 0);
    run(
      kernel(`atom.global.add.u32 %r1, [%base+128], 2; st.global.u32 [%at], %r1; red.global.max.s32 [%base+132], %t;
              atom.global.cas.b32 %r2, [%base+136], 0, %t; setp.eq.u32 %p1, %t, 5; @%p1 red.global.or.b32 [%base+140], 12;
              atom.global.inc.u32 %r3, [%base+144], 9;`),
      { arguments: [data] },
    );
    expect([...data.slice(0, 3), ...data.slice(32, 37)]).toEqual([0, 2, 4, 64, 31, 1, 12, 2]);
  });

  it('outside of shared memory, misaligned, below all memory: the place is named', () => {
    const at = (body: string) => errorOf(() => run(kernel(body), { shared: 128, arguments: [iota(32)] }));
    expect(at('mov.u32 %r1, m; st.shared.u32 [%r1+128], %t;')).toMatch(
      /access of 4 bytes at byte 128 of shared memory, which has 128\n.*\n {2}block \(0, 0, 0\), thread 0\n.*:\d+: mov\.u32/,
    );
    expect(at('mov.u64 %d1, m; cvta.shared.u64 %d1, %d1; ld.u32 %r1, [%d1+-4];')).toContain(
      'at byte -4 of shared memory',
    );
    expect(at('ld.global.v2.u32 {%r1, %r2}, [%at];')).toMatch(/misaligned access of 8 bytes.*\n.*\n.*thread 1\n/);
    expect(at('mov.u64 %d1, 64; ld.global.u32 %r1, [%d1];')).toContain('which is no address of global memory');
    expect(at('mov.u64 %d1, m; cvta.shared.u64 %d1, %d1; ld.global.u32 %r1, [%d1];')).toContain(
      'no address of global memory',
    );
    // What does not matter is not looked at.
    expect(at('.pragma "used_bytes_mask 4095";\n ld.shared.v4.u32 {%r1, %r2, %r3, %r4}, [m+112];')).toBe('no error');
    expect(at('.pragma "used_bytes_mask 0xffff";\n ld.shared.v4.u32 {%r1, %r2, %r3, %r4}, [m+128];')).toContain(
      'at byte 128',
    );
  });
});

describe.skipIf(missing !== '')(`branches${missing}`, () => {
  it('threads part and meet: the Collatz steps of each, by loops and by an indexed branch', () => {
    const data = iota(32, (i) => i + 1);
    run(
      kernel(`ld.global.u32 %v, [%at]; mov.u32 %r1, 0;
        $loop: setp.eq.u32 %p1, %v, 1; @%p1 bra $end; add.s32 %r1, %r1, 1; and.b32 %r2, %v, 1; brx.idx %r2, $targets;
        $even: shr.u32 %v, %v, 1; bra.uni $loop;
        $odd: mad.lo.s32 %v, %v, 3, 1; bra $loop;
        $targets: .branchtargets $even, $odd;
        $end: vote.sync.ballot.b32 %r3, %p1, -1; add.s32 %r1, %r1, %r3; st.global.u32 [%at], %r1;`),
      { arguments: [data] },
    );
    const steps = (n: number): number => (n === 1 ? 0 : 1 + steps(n % 2 === 0 ? n / 2 : 3 * n + 1));
    expect(data).toEqual(iota(32, (i) => steps(i + 1) - 1));
  });

  it('a thread that waits for another one of its warp does not keep it from running', () => {
    const data = iota(33, () => 0);
    run(
      kernel(`setp.eq.u32 %p1, %t, 7; @%p1 bra $set;
        $spin: ld.volatile.global.u32 %r1, [%base+128]; setp.eq.u32 %p2, %r1, 0; @%p2 bra $spin; st.global.u32 [%at], %r1; ret;
        $set: st.global.u32 [%base+128], 9;`),
      { arguments: [data] },
    );
    expect(data).toEqual(iota(33, (i) => (i === 7 ? 0 : 9)));
  });
});

describe.skipIf(missing !== '')(`threads together${missing}`, () => {
  it('shuffles, votes, matches, reductions', () => {
    const names = ['up', 'down', 'bfly', 'idx'];
    const values = iota(32, (i) => i * i + 5);
    // Offset 3; clamp and segments of widths 32 and 8 as __shfl_*_sync makes them.
    for (const width of [32, 8]) {
      for (const mode of names) {
        const data = iota(64);
        data.set(values);
        const c = ((32 - width) << 8) | (mode === 'up' ? 0 : 31);
        run(
          kernel(`ld.global.u32 %v, [%at]; shfl.sync.${mode}.b32 %r1|%p1, %v, 3, ${c}, -1; selp.u32 %r2, 1, 0, %p1;
                  st.global.u32 [%at], %r1; st.global.u32 [%at+128], %r2;`),
          { arguments: [data] },
        );
        for (let lane = 0; lane < 32; lane++) {
          const first = lane - (lane % width);
          const from = { up: lane - 3, down: lane + 3, bfly: lane ^ 3, idx: first + 3 }[mode] as number;
          const isIn = from >= first && from < first + width;
          expect([mode, width, lane, data[lane], data[lane + 32]]).toEqual([
            mode,
            width,
            lane,
            values[isIn ? from : lane],
            Number(isIn),
          ]);
        }
      }
    }
    const data = iota(32 * 8, (i) => (i < 32 ? i % 5 : 0));
    run(
      kernel(`ld.global.u32 %v, [%at]; setp.eq.u32 %p1, %v, 2; setp.lt.u32 %p5, %t, 8; mov.u32 %r1, 0; mov.u32 %r2, 0;
        vote.sync.ballot.b32 %r3, %p1, -1; vote.sync.any.pred %p2, %p1, -1; vote.sync.all.pred %p3, !%p1, -1; vote.sync.uni.pred %p4, %p1, -1;
        match.any.sync.b32 %r4, %v, -1; redux.sync.add.s32 %r5, %v, -1; redux.sync.max.u32 %r6, %t, -1; activemask.b32 %r7;
        @%p5 redux.sync.xor.b32 %r1, %t, 0xff; @%p5 match.all.sync.b32 %r2|%p6, 9, 0xff;
        selp.u32 %r8, 1, 0, %p2; selp.u32 %r9, 2, 0, %p3; selp.u32 %r10, 4, 0, %p4; or.b32 %r8, %r8, %r9; or.b32 %r8, %r8, %r10;
        st.global.u32 [%at], %r3; st.global.u32 [%at+128], %r4; st.global.u32 [%at+256], %r5; st.global.u32 [%at+384], %r6;
        st.global.u32 [%at+512], %r7; st.global.u32 [%at+640], %r8; st.global.u32 [%at+768], %r1; st.global.u32 [%at+896], %r2;`),
      { arguments: [data] },
    );
    const same = (n: number) => iota(32).reduce((bits, i) => (i % 5 === n ? (bits | (1 << i)) >>> 0 : bits), 0);
    for (let lane = 0; lane < 32; lane++)
      expect([0, 1, 2, 3, 4, 5, 6, 7].map((n) => data[32 * n + lane])).toEqual([
        same(2),
        same(lane % 5),
        61,
        31,
        0xffffffff,
        1,
        0,
        lane < 8 ? 0xff : 0,
      ]);
  });

  it('a barrier of 8 warps: all have written what each reads; threads that left are not waited for', () => {
    const data = iota(256);
    run(
      kernel(`mov.u32 %r1, m; mad.lo.s32 %r2, %t, 4, %r1; mul.lo.s32 %r3, %t, 3; st.shared.u32 [%r2], %r3;
              setp.gt.u32 %p1, %t, 239; @%p1 exit; barrier.sync.aligned 0; sub.s32 %r4, 255, %t; mad.lo.s32 %r4, %r4, 4, %r1;
              ld.shared.u32 %r5, [%r4]; bar.sync 1; st.global.u32 [%at], %r5;`),
      { threads: [256], shared: 1024, arguments: [data] },
    );
    expect(data).toEqual(iota(256, (i) => (i < 240 ? 3 * (255 - i) : i)));
  });

  it('lanes that come by different ways are gathered', () => {
    const data = iota(32);
    run(
      kernel(`and.b32 %r1, %t, 1; setp.eq.u32 %p1, %r1, 0; @%p1 bra $even;
        mov.u32 %v, 1000; bar.warp.sync -1; bra $meet;
        $even: mov.u32 %v, 1; add.s32 %v, %v, 1; bar.warp.sync -1;
        $meet: shfl.sync.bfly.b32 %r2, %v, 1, 31, -1; st.global.u32 [%at], %r2;`),
      { arguments: [data] },
    );
    expect(data).toEqual(iota(32, (i) => (i % 2 ? 2 : 1000)));
  });

  it('deadlocks and misuse are told with the instruction', () => {
    const at = (body: string, threads = 64) =>
      errorOf(() => run(kernel(body), { threads: [threads], shared: 1024, arguments: [iota(64)] }));
    const half = 'and.b32 %r1, %t, 1; setp.eq.u32 %p1, %r1, 0;';
    expect(at(`${half} @%p1 bra $a; bar.sync 0; bra $end; $a: add.s32 %r2, %t, 1; bar.sync 0; $end:`)).toMatch(
      /a divergent barrier: lanes 0x(5{8}|a{8})/,
    );
    expect(at('setp.gt.u32 %p1, %t, 31; @%p1 bra $a; bar.sync 0; bra $end; $a: bar.sync 1; $end:')).toMatch(
      /deadlock: no thread of the block can go on\n {2}warp 0, lanes 0xffffffff wait at line \d+: .*\n {2}warp 1/,
    );
    expect(
      at(`${half} @%p1 bra $a; bar.sync 0; bra $end; $a: shfl.sync.bfly.b32 %r2, %t, 2, 31, -1; $end:`, 32),
    ).toContain('deadlock');
    expect(at(`${half} @%p1 shfl.sync.bfly.b32 %r2, %t, 1, 31, 0x55555555;`, 32)).toContain(
      'reads lane 1, which does not take part',
    );
    expect(at('vote.sync.ballot.b32 %r2, %p1, 0xfffffffe;', 32)).toContain('the lane is not in its own mask');
    expect(at(`${half} @%p1 exit; ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r2}, [m];`, 32)).toContain(
      'this takes all 32',
    );
    expect(at('trap;', 32)).toContain('the kernel trapped');
    expect(
      errorOf(() =>
        run(kernel('mov.u32 %r1, 0;').replace('{', '.maxntid 64, 1, 1\n{'), { threads: [128], arguments: [iota(64)] }),
      ),
    ).toContain('with 128 threads a block, which allows 64');
    expect(errorOf(() => run(kernel(''), { arguments: [{ value: iota(3) }] }))).toContain(
      'argument 0 of k has 12 bytes, expected 8',
    );
  });
});

describe.skipIf(missing !== '')(`matrices${missing}`, () => {
  const rng = new Rng('matrices');
  it('ldmatrix gives rows, or columns, as the table of the ISA says', () => {
    const numbers = Uint16Array.from({ length: 256 }, (_, i) => i + 1000);
    for (const [count, suffix] of [
      [4, ''],
      [4, '.trans'],
      [2, ''],
      [2, '.trans'],
      [1, ''],
    ] as const) {
      const data = new Uint32Array(256);
      data.set(new Uint32Array(numbers.buffer));
      const registers = Array.from({ length: count }, (_, n) => `%r${n + 4}`).join(', ');
      const stores = Array.from({ length: count }, (_, n) => `st.global.u32 [%at+${512 + 128 * n}], %r${n + 4};`).join(
        '\n',
      );
      run(
        kernel(`mul.wide.u32 %d1, %t, 16; add.s64 %d1, %base, %d1; ld.global.v4.u32 {%r20, %r21, %r22, %r23}, [%d1];
          mov.u32 %r1, m; xor.b32 %r2, %t, 5; mad.lo.s32 %r1, %r2, 16, %r1; st.shared.v4.u32 [%r1], {%r20, %r21, %r22, %r23};
          bar.warp.sync -1; ldmatrix.sync.aligned.m8n8.x${count}${suffix}.shared.b16 {${registers}}, [%r1]; ${stores}`),
        { shared: 512, arguments: [data] },
      );
      const got = new Uint16Array(data.buffer).subarray(256);
      for (let m = 0; m < count; m++)
        for (let lane = 0; lane < 32; lane++)
          for (const half of [0, 1]) {
            const [one, other] = [lane >> 2, 2 * (lane & 3) + half];
            const [row, column] = suffix === '' ? [one, other] : [other, one];
            expect(got[64 * m + 2 * lane + half]).toBe(1000 + 64 * m + 8 * row + column);
          }
    }
  });

  it('mma is the product of the matrices whose layouts the ISA gives', () => {
    for (const type of ['bf16', 'f16']) {
      // Small whole numbers: exact in both types and in any order.
      const whole = () => rng.integer(17) - 8;
      const [a, b, c] = [256, 128, 128].map((n) => Float32Array.from({ length: n }, whole)) as [
        Float32Array,
        Float32Array,
        Float32Array,
      ];
      const bits = (x: number) => {
        const wide = new Uint32Array(Float32Array.of(x).buffer)[0] as number;
        if (type === 'bf16') return wide >>> 16;
        return x === 0 ? 0 : ((wide >>> 16) & 0x8000) | ((((wide >>> 23) & 255) - 112) << 10) | ((wide >>> 13) & 1023);
      };
      // 14 words a lane: a, b, c, d. PTX ISA, "Matrix fragments for mma.m16n8k16 with floating point type".
      const data = new Uint32Array(32 * 16);
      const floats = new Float32Array(data.buffer);
      for (let lane = 0; lane < 32; lane++) {
        const [group, thread] = [lane >> 2, lane % 4];
        for (let i = 0; i < 8; i++) {
          const row = i < 2 || (i >= 4 && i < 6) ? group : group + 8;
          const column = thread * 2 + (i & 1) + (i >= 4 ? 8 : 0);
          data[lane * 16 + (i >> 1)] =
            ((data[lane * 16 + (i >> 1)] as number) | (bits(a[row * 16 + column] as number) << (16 * (i & 1)))) >>> 0;
        }
        for (let i = 0; i < 4; i++) {
          const row = thread * 2 + (i & 1) + (i >= 2 ? 8 : 0);
          data[lane * 16 + 4 + (i >> 1)] =
            ((data[lane * 16 + 4 + (i >> 1)] as number) | (bits(b[row * 8 + group] as number) << (16 * (i & 1)))) >>> 0;
          floats[lane * 16 + 8 + i] = c[(i < 2 ? group : group + 8) * 8 + thread * 2 + (i & 1)] as number;
        }
      }
      run(
        kernel(`mul.wide.u32 %d1, %t, 64; add.s64 %d1, %base, %d1;
          ld.global.v4.u32 {%r0, %r1, %r2, %r3}, [%d1]; ld.global.v2.u32 {%r4, %r5}, [%d1+16]; ld.global.v4.f32 {%f0, %f1, %f2, %f3}, [%d1+32];
          mma.sync.aligned.m16n8k16.row.col.f32.${type}.${type}.f32 {%f4, %f5, %f6, %f7}, {%r0, %r1, %r2, %r3}, {%r4, %r5}, {%f0, %f1, %f2, %f3};
          st.global.v4.f32 [%d1+48], {%f4, %f5, %f6, %f7};`),
        { arguments: [data] },
      );
      for (let row = 0; row < 16; row++)
        for (let column = 0; column < 8; column++) {
          let sum = c[row * 8 + column] as number;
          for (let k = 0; k < 16; k++) sum += (a[row * 16 + k] as number) * (b[k * 8 + column] as number);
          const lane = (row % 8) * 4 + (column >> 1);
          expect(floats[lane * 16 + 12 + (row >= 8 ? 2 : 0) + (column & 1)]).toBe(sum);
        }
    }
  });
});

describe.skipIf(missing !== '')(`texts that are not understood${missing}`, () => {
  const at = (body: string, before?: string) => errorOf(() => run(kernel(body, before), { arguments: [iota(32)] }));
  it.each([
    ['frobnicate.b32 %r1, %r2;', /\.ptx:\d+: unknown instruction: .*frobnicate\.b32 %r1, %r2;/],
    ['add.frob.s32 %r1, %r2, %r3;', /unknown qualifier \.frob: /],
    ['add.s32 %r1, %d2, %r3;', /a register of another size: /],
    ['add.s32 %r1, %r2;', /wrong number of operands: /],
    ['add.s32 %r1, %nothing, 3;', /not a register: /],
    ['mov.u64 %d1, nothing;', /not a register or symbol: /],
    ['mov.u32 %r1, %clock;', /not a register or symbol: /],
    ['bra $nowhere;', /no label \$nowhere/],
    [
      'mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%f1}, {%r1}, {%r2}, {%f1};',
      /expected a type at the end|unknown form/,
    ],
    ['cvt.s32.f32 %r1, %f1;', /without rounding to one: /],
    ['.pragma "strange";', /unknown \.pragma "strange"/],
    ['call.uni vprintf;', /vprintf, whose body is not in the file|the body of the function is not in the file/],
  ])('%s', (text, message) => {
    expect(at(text)).toMatch(message);
  });
  it('recursion, and directives', () => {
    expect(at('call.uni f;', '.func f() { call.uni f; ret; }')).toContain('recursion of f is not supported');
    expect(at('', '.frob x;')).toMatch(/expected a directive of a module, got '\.frob'/);
    expect(errorOf(() => launch(ptxFile(kernel('')), { kernel: 'other', arguments: [] }))).toContain('no entry other');
  });
});
