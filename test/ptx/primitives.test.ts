// The half of the kernels that the host executor never sees: inline PTX of native/cuda/nvcc/primitives.cuh, as nvcc compiles
// it. As it stands it is right; with a fault planted in it (native/sim/primitives.cuh, the executor's twin, has none of this
// text, and would pass) the interpreter must find it.
import { spawn, spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
// @ts-expect-error: plain JavaScript
import { nvcc } from '../../scripts/ptx.mjs';
import { compare, roundTo } from '../support/compare.js';
import { Rng } from '../support/rng.js';
import { folder, interpreter, launch, missing } from './machine.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const original = readFileSync(path.join(root, 'native/cuda/nvcc/primitives.cuh'), 'utf8');

let variants = 0;
/** The PTX of primitives.cu with a text of primitives.cuh replaced. */
async function compiled(from = '', to = ''): Promise<string> {
  expect(original).toContain(from);
  const include = path.join(folder, `variant-${variants++}`);
  mkdirSync(include);
  writeFileSync(path.join(include, 'primitives.cuh'), original.replaceAll(from, to));
  const file = path.join(include, 'primitives.ptx');
  const flags = ['-std=c++20', '-O3', '--expt-relaxed-constexpr', '-DHADAL_ISA=cuda', '-arch=compute_80', '-ptx'];
  const includes = [`-I${include}`, '-Inative', '-Inative/cuda/nvcc'];
  const source = fileURLToPath(new URL('./primitives.cu', import.meta.url));
  const child = spawn(nvcc as string, [...flags, ...includes, source, '-o', file], { cwd: root, stdio: 'inherit' });
  expect(await new Promise((resolve) => child.on('close', resolve))).toBe(0);
  return file;
}

/** Runs the kernel in both dtypes; throws where a result is wrong. */
function check(file: string): void {
  const entries = [...readFileSync(file, 'utf8').matchAll(/\.entry (\w+)\(/g)].map(([, name]) => name as string);
  expect(entries).toHaveLength(2);
  for (const kernel of entries) {
    const dtype = kernel.includes('4Bf16') ? 'bf16' : 'fp16';
    const rng = new Rng(dtype);
    const [a, b] = [256, 128].map((n) => Float32Array.from({ length: n }, () => rng.normal())) as [
      Float32Array,
      Float32Array,
    ];
    const [c, e, f] = [new Float32Array(128), new Float32Array(128), new Float32Array(128)];
    const rows = 11;
    launch(file, {
      kernel,
      shared: (256 + 128) * 2,
      arguments: ['gate', { value: Int32Array.of(rows) }, a, b, new Uint32Array(128), new Uint32Array(64), c, e, f],
    });
    const expected = Float64Array.from(c, (_, at) => {
      let sum = 0;
      const [row, column] = [at >> 3, at & 7];
      if (row < rows)
        for (let k = 0; k < 16; k++)
          sum += roundTo(dtype, a[row * 16 + k] as number) * roundTo(dtype, b[k * 8 + column] as number);
      return sum;
    });
    compare(`products in ${dtype}`, c, expected, { allowed: 1e-5 });
    compare(
      `2^x in ${dtype}`,
      e,
      Float64Array.from(expected, (x) => 2 ** (x / 64)),
      { allowed: 1e-6 },
    );
    compare(
      `rounding to ${dtype}`,
      f,
      Float64Array.from(c, (x) => roundTo(dtype, x)),
      { allowed: 0 },
    );
  }
}

const faults: Record<string, [string, string]> = {
  'halves of a pair exchanged': ['"f"(high), "f"(low)', '"f"(low), "f"(high)'],
  'registers of a exchanged': ['"r"(a[1]), "r"(a[2])', '"r"(a[2]), "r"(a[1])'],
  'registers of b exchanged': ['"r"(b[0]), "r"(b[1])', '"r"(b[1]), "r"(b[0])'],
  'matrices in another order': ['x4.shared.b16 {%0, %1, %2, %3}', 'x4.shared.b16 {%0, %2, %1, %3}'],
  'rows loaded for columns': ['x2.trans.shared', 'x2.shared'],
  'a copy that reads what it should not': ['isWanted ? 16 : 0', 'isWanted ? 0 : 16'],
  'copies in no group': ['asm volatile("cp.async.commit_group;" ::: "memory");', ''],
  'cut, not rounded': ['cvt.rn.bf16.f32', 'cvt.rz.bf16.f32'],
  'another function': ['ex2.approx.ftz.f32', 'lg2.approx.ftz.f32'],
};

const reason = nvcc === undefined ? ' (skipped: nvcc is not installed)' : missing;

describe.skipIf(reason !== '')(`inline PTX${reason}`, () => {
  it('is right as it stands, and each planted fault is found', async () => {
    check(await compiled());
    const waiting = Object.entries(faults);
    const missed: string[] = [];
    const work = async () => {
      for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
        const [name, [from, to]] = next;
        const file = await compiled(from, to);
        try {
          check(file);
          missed.push(name);
        } catch (error) {
          expect((error as Error).message).toMatch(/worst element|\[ptx\]/);
        }
      }
    };
    await Promise.all([work(), work()]);
    expect(missed).toEqual([]);
  });

  it('kernels are found by what g++ calls their launch', async () => {
    const file = await compiled();
    const find = (body: string, threads = 32) => {
      const name = `void hadal::cuda::launch(hadal::RunContext&, Grid, Args ...) [with auto body = ${body}; int threads = ${threads}; int blocksPerProcessor = 1; Args = {int, const float*}]`;
      return spawnSync(interpreter, ['find', path.dirname(file), name], { encoding: 'utf8' });
    };
    expect(find('test_primitives::product<hadal::Bf16>').stdout).toMatch(/^_ZN5hadal4cuda5entry.*4Bf16/);
    expect(find('hadal::cuda::test_primitives::product<hadal::cuda::F16>').stdout).toMatch(
      /^_ZN5hadal4cuda5entry.*3F16/,
    );
    expect(find('test_primitives::product<float>').stderr).toMatch(
      /no kernel of the PTX is the launched one(.|\n)*product<Bf16>, threads 32/,
    );
    expect(find('test_primitives::product<hadal::Bf16>', 64).stderr).toContain(
      'wanted: test_primitives::product<Bf16>, threads 64',
    );
  }, 60_000);
});
