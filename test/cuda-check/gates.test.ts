// The static gates of CUDA kernels: planted faults must be refused. What needs nvcc is skipped, counted, where there is none.
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
// @ts-expect-error: plain JavaScript
import { budgetsOf, budgetsText, readBudgets } from '../../scripts/cuda/budgets.mjs';
// @ts-expect-error: plain JavaScript
import { compileAll, kernelsOfLog } from '../../scripts/cuda/compile.mjs';
// @ts-expect-error: plain JavaScript
import { kernelsOf } from '../../scripts/cuda/cubin.mjs';
// @ts-expect-error: plain JavaScript
import { complaintsOf, launchComplaints } from '../../scripts/cuda/gates.mjs';
// @ts-expect-error: plain JavaScript
import { launchedBody, readLaunches } from '../../scripts/cuda/launches.mjs';
// @ts-expect-error: plain JavaScript
import { bodyOf } from '../../scripts/cuda/names.mjs';
// @ts-expect-error: plain JavaScript
import { occupancy } from '../../scripts/cuda/occupancy.mjs';
// @ts-expect-error: plain JavaScript
import { opcodes, probedOpcodes } from '../../scripts/cuda/opcodes.mjs';
// @ts-expect-error: plain JavaScript
import { kernelTable } from '../../scripts/cuda/table.mjs';
// @ts-expect-error: plain JavaScript
import { findToolkit } from '../../scripts/cuda/toolkit.mjs';

interface Budget {
  threads: number;
  sharedBytes: number;
  on: Record<string, { registers: number; blocks: number; warps: number }>;
}

const toolkit = findToolkit();
const here = path.dirname(new URL(import.meta.url).pathname);
let folder = '';
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'hadal-gates-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

describe('names of kernels', () => {
  it('are the body’s, however the compiler spells it', () => {
    const body = 'hadal::cuda::rms_norm::forward<hadal::Bf16, float>';
    const entry = `void hadal::cuda::entry<&(void ${body}(hadal::P, float const*)), 256, 1, hadal::P>(int const*, hadal::P)`;
    expect(bodyOf(entry)).toBe('rms_norm::forward<Bf16, float>');
    const gcc = `void hadal::cuda::launch(RunContext&, Grid, Args ...) [with auto body = ${body}; int threads = 256; Args = {int}]`;
    expect(launchedBody(gcc)).toBe('rms_norm::forward<Bf16, float>');
    expect(bodyOf('void hadal::cuda::entry<&hadal::cuda::ema::update, 256, 1>(int const*)')).toBe('ema::update');
    const tile = 'matmul::multiply<hadal::cuda::gemm::Tile<64, 64u>, (bool)1, short unsigned int>';
    expect(bodyOf(tile)).toBe('matmul::multiply<gemm::Tile<64, 64>, true, unsigned short>');
  });
});

describe('what ptxas says', () => {
  it('is read by kernel and GPU', () => {
    const log = `ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z1av' for 'sm_80'
ptxas info    : Function properties for _Z1av
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 64 bytes smem, 400 bytes cmem[0]
ptxas info    : Compiling entry function '_Z1bv' for 'sm_90'
ptxas info    : Used 12 registers
`;
    const found = kernelsOfLog(log);
    expect(found.get('sm_80 _Z1av')).toEqual({ registers: 40, staticShared: 64, stack: 8, spills: 16 });
    expect(found.get('sm_90 _Z1bv')).toEqual({ registers: 12, staticShared: 0, stack: 0, spills: 0 });
  });

  it('a file that is no cubin is refused', () => {
    expect(() => kernelsOf(Buffer.from('hello'))).toThrow('expected an ELF file');
  });
});

describe('occupancy', () => {
  it('is limited by threads, registers, shared memory or blocks', () => {
    const of = (threads: number, registers: number, shared: number) =>
      occupancy('sm_80', { threads, registers, shared }).blocks;
    expect(of(256, 32, 0)).toBe(8);
    expect(of(256, 64, 0)).toBe(4);
    expect(of(128, 32, 48 * 1024)).toBe(3);
    expect(of(32, 16, 0)).toBe(32);
    expect(of(128, 128, 163 * 1024)).toBe(1);
    expect(of(128, 128, 163 * 1024 + 1)).toBe(0);
  });

  it.skipIf(!toolkit)('is that of NVIDIA’s calculator', () => {
    const calculator = path.join(folder, 'occupancy');
    execFileSync('g++', [`-I${toolkit.include}`, path.join(here, 'occupancy.cpp'), '-o', calculator]);
    const cases = ['sm_80', 'sm_86', 'sm_89', 'sm_90'].flatMap((code) =>
      [32, 96, 128, 160, 256, 384, 512, 1024].flatMap((threads) =>
        [16, 24, 33, 40, 64, 72, 96, 128, 168, 255]
          .filter((registers) => registers * threads <= 65536)
          .flatMap((registers) =>
            [0, 100, 1024, 16384, 50_000, 99 * 1024, 163 * 1024, 200_000].map((shared) => ({
              code,
              threads,
              registers,
              shared,
            })),
          ),
      ),
    );
    const input = cases.map(
      ({ code, threads, registers, shared }) => `${code[3]} ${code[4]} ${threads} ${registers} ${shared}\n`,
    );
    const output = spawnSync(calculator, { input: input.join(''), encoding: 'utf8' })
      .stdout.trim()
      .split('\n')
      .map(Number);
    expect(output.length).toBe(cases.length);
    const wrong = cases.filter(
      ({ code, ...kernel }, i) => occupancy(code, kernel).blocks !== Math.max(0, output[i] ?? -1),
    );
    expect(wrong).toEqual([]);
  });
});

describe('native/cuda/budgets.json', () => {
  const kernels = Object.values(readBudgets() as Record<string, Record<string, Budget>>).flatMap(Object.entries) as [
    string,
    Budget,
  ][];

  it('says of every kernel what follows from its registers and shared memory', () => {
    expect(kernels.length).toBeGreaterThan(100);
    for (const [name, { threads, sharedBytes, on }] of kernels)
      for (const [code, { registers, blocks, warps }] of Object.entries(on)) {
        const found = occupancy(code, { threads, registers, shared: sharedBytes });
        expect({ name, code, blocks, warps }).toEqual({ name, code, blocks: found.blocks, warps: found.warps });
        expect(blocks, `${name} on ${code}`).toBeGreaterThan(0);
      }
  });
});

describe('launches of the simulated GPU', () => {
  const line = (kernel: string, sharedBytes: number, worstWavefrontsPerMatrix: number) =>
    `${JSON.stringify({ kernel: `void launch() [with auto body = ${kernel}; int threads = 128; X]`, sharedBytes, worstWavefrontsPerMatrix })}\n`;

  it('beyond the budget’s shared memory, or with conflicts of banks, are refused', () => {
    const log = path.join(folder, 'log.jsonl');
    writeFileSync(log, line('a::b<int>', 100, 1) + line('a::b<int>', 300, 1) + line('a::c', 0, 8));
    const launches = readLaunches(log);
    expect([...launches]).toEqual([
      ['a::b<int>', { sharedBytes: 300, wavefronts: 1 }],
      ['a::c', { sharedBytes: 0, wavefronts: 8 }],
    ]);
    const budget = { threads: 128, sharedBytes: 300, on: {} };
    expect(launchComplaints({ 'a::b<int>': budget }, launches)).toEqual([]);
    expect(launchComplaints({ 'a::b<int>': { ...budget, sharedBytes: 299 } }, launches)).toEqual([
      expect.stringContaining('a::b<int> is launched with 300 bytes of shared memory, 299 are its budget'),
    ]);
    expect(launchComplaints({ 'a::c': budget }, launches)).toEqual([
      'a::c has conflicts of banks: ldmatrix takes 8 wavefronts a matrix',
    ]);
    expect(readLaunches(path.join(folder, 'none')).size).toBe(0);
  });
});

describe.skipIf(!toolkit)('gates, with nvcc', () => {
  const codes = ['sm_80', 'sm_90'];
  let compiled: { source: string; kernels: Record<string, { name: string; hmmaOfLoops: number[] }[]> }[] = [];
  let budgets: Record<string, Record<string, Budget>> = {};
  const good = 'matmul::multiply<Bf16>';
  const budgetOf = (name: string) => budgets.planted?.[name] as Budget;
  const complaintsOn = (name: string, changed: Partial<Budget> | null = {}) => {
    const { [name]: own, ...others } = budgets.planted ?? {};
    const planted = changed === null ? others : { ...others, [name]: { ...own, ...changed } };
    const all: string[] = complaintsOf(compiled, { planted });
    return all.filter((complaint) => complaint.startsWith(`${name} `));
  };

  beforeAll(async () => {
    const out = path.relative(path.join(here, '../..'), folder);
    const found = await compileAll(toolkit, ['test/cuda-check/planted.cu'], { codes, out });
    expect(found.failures).toEqual([]);
    compiled = found.compiled;
    budgets = budgetsOf(compiled, {}, new Map([[good, { sharedBytes: 16384, wavefronts: 1 }]]));
  });

  it('the numbers of instructions are the assembler’s', () => {
    for (const code of codes)
      for (const [name, found] of Object.entries(probedOpcodes(toolkit.ptxas, code)))
        expect(found, `${name} on ${code}`).toContain(opcodes[name]);
  });

  it('let a good kernel pass, whose loop has its eight products', () => {
    expect(complaintsOn(good)).toEqual([]);
    const kernel = compiled[0]?.kernels.sm_80?.find(({ name }) => name === good);
    expect(kernel?.hmmaOfLoops.every((count) => count > 0 && count % 8 === 0)).toBe(true);
    expect(budgetOf(good)).toMatchObject({ threads: 128, sharedBytes: 16384 });
    expect(kernelTable(compiled, budgets)).toMatch(/^\| `matmul::multiply<Bf16>` \| 128 \| \d+ \/ \d+ \| 16,384 \|/m);
  });

  it('refuse spilled registers and local memory', () => {
    const spills = complaintsOn('planted::spills').join('\n');
    expect(spills).toMatch(/on sm_80 spills registers: \d+ bytes/);
    expect(spills).toMatch(/on sm_90 uses local memory: \d+ instructions LDL/);
    const local = complaintsOn('planted::local').join('\n');
    expect(local).toMatch(/on sm_80 has a stack of 256 bytes a thread/);
    expect(local).toMatch(/on sm_80 uses local memory: \d+ instructions STL/);
    expect(local).not.toContain('spills');
  });

  it('refuse a product of matrices without tensor cores', () => {
    const said = complaintsOn('matmul::multiply<Bf16, 8>').join('\n');
    for (const opcode of ['HMMA', 'LDSM', 'LDGSTS'])
      expect(said).toContain(`on sm_80 multiplies matrices, but has no instruction ${opcode}`);
  });

  it('refuse what takes more than its budget, has none, or is no longer there', () => {
    const { on } = budgetOf(good);
    const less = (change: Partial<Budget['on'][string]>): Partial<Budget> => ({
      on: { ...on, sm_90: { ...(on.sm_90 as Budget['on'][string]), ...change } },
    });
    const registers = on.sm_90?.registers ?? 0;
    expect(complaintsOn(good, less({ registers: registers - 1 }))).toEqual([
      `${good} on sm_90 takes ${registers} registers a thread, ${registers - 1} are its budget`,
    ]);
    expect(complaintsOn(good, less({ registers: registers + 1 }))).toEqual([]);
    expect(complaintsOn(good, less({ warps: 64 }))).toEqual([expect.stringContaining('64 in its budget')]);
    expect(complaintsOn(good, { threads: 256 }).length).toBe(2);
    expect(complaintsOn(good, { sharedBytes: 0 })[0]).toContain(
      'uses shared memory, of which its budget knows nothing',
    );
    expect(complaintsOn(good, { sharedBytes: 300_000 })[0]).toContain('cannot be launched');
    expect(complaintsOn(good, null)[0]).toContain(
      'run `node scripts/check-cuda.mjs --write` and review the difference',
    );
    expect(complaintsOf(compiled, { planted: { ...budgets.planted, 'planted::gone': budgetOf(good) } })).toContainEqual(
      expect.stringContaining('planted::gone has a budget'),
    );
  });

  it('what is written keeps what is known of shared memory, and of other sources', () => {
    const again = budgetsOf(compiled, { ...budgets, other: {} }, new Map());
    expect(again.planted[good].sharedBytes).toBe(16384);
    expect(Object.keys(again)).toEqual(['other', 'planted']);
    expect(JSON.parse(budgetsText(again))).toEqual(again);
  });

  it('a source that does not compile is a failure that names it', async () => {
    const source = path.join(folder, 'wrong.cu');
    writeFileSync(source, '#include "cuda/launch.cuh"\n__device__ int f() { return undeclared; }\n');
    const out = path.relative(path.join(here, '../..'), folder);
    const { failures } = await compileAll(toolkit, [path.relative(path.join(here, '../..'), source)], { codes, out });
    expect(failures).toEqual([expect.stringMatching(/wrong\.cu does not compile[\s\S]*undeclared/)]);
  });
});
