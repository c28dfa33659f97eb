// Which machine instructions kernels are made of. NVIDIA does not publish the encoding: an instruction has 128 bits, whose
// lowest nine say what it does, three more the form of its operands (compute capability 7.0 and newer). The numbers here are
// checked against the assembler at hand: each is the one of which there are more by as many as a probe has more instructions.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { kernelsOf } from './cubin.mjs';

/** The assembler's names of instructions, by the number in the lowest nine bits. */
export const opcodes = {
  HMMA: 0x03c, // mma.sync of 16-bit numbers
  LDSM: 0x03b, // ldmatrix
  LDGSTS: 0x1ae, // cp.async
  LDG: 0x181,
  STG: 0x186,
  LDS: 0x184,
  STS: 0x188,
  LDL: 0x183, // local memory: spilled registers, arrays that are indexed at run time
  STL: 0x187,
  BAR: 0x11d,
  MUFU: 0x108, // ex2, rcp, rsqrt …
  FFMA: 0x023,
  BRA: 0x147,
};

/** @param {import('./cubin.mjs').Instruction} instruction */
export const opcodeOf = ({ low }) => Number(low & 0x1ffn);

const names = new Map(Object.entries(opcodes).map(([name, number]) => [number, name]));

/** @param {readonly import('./cubin.mjs').Instruction[]} code @returns {Record<keyof typeof opcodes, number>} */
export function countsOf(code) {
  const counts = Object.fromEntries(Object.keys(opcodes).map((name) => [name, 0]));
  for (const instruction of code) {
    const name = names.get(opcodeOf(instruction));
    if (name !== undefined) counts[name] = (counts[name] ?? 0) + 1;
  }
  return /** @type {Record<keyof typeof opcodes, number>} */ (counts);
}

/**
 * How many instructions of a kind the innermost loops around them have, from where a backward branch leads to the branch. The
 * distance of a branch is in bits 34 to 81 since compute capability 7.0, with 8 more below them (bits 16 to 23) since 9.0,
 * in units of 4 bytes, from the next instruction on.
 *
 * @param {readonly import('./cubin.mjs').Instruction[]} code @param {string} architecture
 * @param {keyof typeof opcodes} name
 * @returns {number[]} for each such loop, in the order of the code
 */
export function countsInLoops(code, architecture, name) {
  const hasLowBits = Number(architecture.slice('sm_'.length)) >= 90;
  const loops = code.flatMap((instruction, last) => {
    if (opcodeOf(instruction) !== opcodes.BRA) return [];
    const high = BigInt.asIntN(48, ((instruction.high & 0x3ffffn) << 30n) | (instruction.low >> 34n));
    const words = hasLowBits ? (high << 8n) | ((instruction.low >> 16n) & 0xffn) : high;
    const bytes = Number(words) * 4;
    const first = last + 1 + bytes / 16;
    if (bytes % 16 !== 0 || first < 0 || first > code.length)
      throw new Error(`[opcodes] expected a branch to an instruction of the kernel, got one ${bytes} bytes on`);
    // What follows the end of a kernel branches to itself.
    return first < last ? [{ first, last }] : [];
  });
  const counted = loops
    .map(({ first, last }) => ({ first, last, count: countsOf(code.slice(first, last + 1))[name] }))
    .filter(({ count }) => count > 0);
  const holdsAnother = (loop) =>
    counted.some((other) => other !== loop && other.first >= loop.first && other.last <= loop.last);
  return counted.filter((loop) => !holdsAnother(loop)).map(({ count }) => count);
}

/** PTX of `count` instructions of a kind, with the kernel's registers at hand and results that are not thrown away. */
const probes = {
  HMMA: (i) =>
    `mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f1,%f2,%f3,%f4},{%r1,%r2,%r3,%r${5 + i}},{%r1,%r2},{%f1,%f2,%f3,%f4};`,
  LDSM: (i) => `ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r1,%r2,%r3,%r4},[%r4+${i * 16}];`,
  LDGSTS: (i) => `cp.async.cg.shared.global [%r4+${i * 16}],[%rd2+${i * 16}],16;`,
  LDG: (i) => `ld.volatile.global.u32 %r1,[%rd2+${i * 4}]; st.volatile.shared.u32 [%r4],%r1;`,
  STG: (i) => `st.volatile.global.u32 [%rd2+${i * 4}],%r1;`,
  LDS: (i) => `ld.volatile.shared.u32 %r1,[%r4+${i * 4}]; st.volatile.shared.u32 [%r4],%r1;`,
  STS: (i) => `st.volatile.shared.u32 [%r4+${i * 4}],%r1;`,
  LDL: (i) => `ld.local.u32 %r1,[%rd3+${i * 4}]; st.volatile.shared.u32 [%r4],%r1;`,
  STL: (i) => `st.local.u32 [%rd3+${i * 4}],%r1;`,
  BAR: () => 'bar.sync 0;',
  MUFU: () => 'ex2.approx.ftz.f32 %f1,%f1;',
  FFMA: () => 'fma.rn.f32 %f1,%f1,%f2,%f3;',
  BRA: (i) =>
    `L${i}: st.volatile.shared.u32 [%r4],%r1; ld.volatile.shared.u32 %r2,[%r4]; setp.ne.u32 %p1,%r2,${i}; @%p1 bra L${i};`,
};

const probeKernel = (architecture, lines) => `.version 8.0
.target ${architecture}
.address_size 64
.visible .entry probe(.param .u64 a) {
  .reg .u64 %rd<4>; .reg .b32 %r<16>; .reg .f32 %f<8>; .reg .pred %p<2>;
  .local .align 16 .b8 depot[256];
  .shared .align 128 .b8 memory[1024];
  ld.param.u64 %rd1,[a]; cvta.to.global.u64 %rd2,%rd1; mov.u32 %r4,%tid.x;
  mov.u64 %rd3,depot; mad.wide.u32 %rd3,%r4,4,%rd3; st.local.u32 [%rd3+64],%r4;
  ${Array.from({ length: 12 }, (_, i) => (i === 4 ? '' : `ld.volatile.global.u32 %r${i},[%rd2+${i * 8}];`)).join(' ')}
  ${Array.from({ length: 5 }, (_, i) => `ld.volatile.global.f32 %f${i},[%rd2+${i * 8}];`).join(' ')}
  ${lines.join('\n  ')}
  ${Array.from({ length: 4 }, (_, i) => `st.volatile.global.u32 [%rd2],%r${i}; st.volatile.global.f32 [%rd2],%f${i + 1};`).join(' ')}
  ld.local.u32 %r1,[%rd3+32]; st.volatile.global.u32 [%rd2],%r1; ret;
}
`;

/**
 * The numbers as the assembler shows them: what there are more of, by one an instruction, when a probe has more.
 *
 * @param {string} ptxas @param {string} architecture
 * @returns {Record<keyof typeof opcodes, number[]>}
 */
export function probedOpcodes(ptxas, architecture) {
  const folder = mkdtempSync(path.join(tmpdir(), 'hadal-probe-'));
  const assembled = (lines) => {
    const [source, cubin] = [path.join(folder, 'probe.ptx'), path.join(folder, 'probe.cubin')];
    writeFileSync(source, probeKernel(architecture, lines));
    const { status, stderr } = spawnSync(ptxas, [`-arch=${architecture}`, source, '-o', cubin], { encoding: 'utf8' });
    if (status !== 0) throw new Error(`[opcodes] ptxas refuses a probe: ${stderr}`);
    const counts = new Map();
    for (const instruction of kernelsOf(readFileSync(cubin)).flatMap(({ code }) => code))
      counts.set(opcodeOf(instruction), (counts.get(opcodeOf(instruction)) ?? 0) + 1);
    return counts;
  };
  try {
    const found = Object.entries(probes).map(([name, line]) => {
      const withSome = (count) => assembled(Array.from({ length: count }, (_, i) => line(i)));
      const [few, many] = [withSome(2), withSome(5)];
      return [name, [...many].filter(([number, count]) => count - (few.get(number) ?? 0) === 3).map(([one]) => one)];
    });
    return Object.fromEntries(found);
  } finally {
    rmSync(folder, { recursive: true });
  }
}
