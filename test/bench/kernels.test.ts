// `npm run bench`: every kernel is in it, its report is whole, and reports can be compared.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { benchCase, benchDTypes, offloadedIn } from '../../bench/support/bench-case.js';
import { type Family, loadFamilies } from '../../bench/support/families.js';
import { measurePeaks } from '../../bench/support/machine.js';
import { graphOf, quantile } from '../../bench/support/measure.js';
import { type BenchReport, compareLines } from '../../bench/support/report.js';
import { runBenches } from '../../bench/support/run-benches.js';
import { loadAddon } from '../../src/addon/addon.js';
import { rmsNorm } from '../../src/ops/rms-norm.js';
import { compile } from '../../src/runtime/compile.js';
import { testDevice } from '../support/op-case.js';

const root = fileURLToPath(new URL('../../', import.meta.url));
const dir = mkdtempSync(join(tmpdir(), 'hadal-bench-'));
afterAll(() => rmSync(dir, { recursive: true }));

const families = await loadFamilies();

describe('the cases', () => {
  it('are there for every family', () => {
    const contracts = readdirSync(join(root, 'native/ops')).map((file) => file.replace(/\.h$/, ''));
    expect(families.map(({ name }) => name)).toEqual(contracts.sort());
  });

  it('leave no kernel out, and plan in every number format', () => {
    const used = new Set<string>();
    for (const { cases, kernels } of families) {
      for (const given of cases) {
        for (const dtype of given.dtypes ?? benchDTypes) {
          const { instructions } = compile(graphOf(given, dtype), 2, { isOffloaded: offloadedIn(given.inputs) });
          const own = instructions.map(({ kernel }) => kernel).filter((kernel) => kernels.includes(kernel));
          expect(own, given.name).not.toEqual([]);
          for (const kernel of own) used.add(kernel);
        }
      }
    }
    expect([...used].sort()).toEqual(Object.keys(loadAddon().kernels()).sort());
  });

  it('have names that tell them apart', () => {
    for (const { name, cases } of families) {
      const keys = cases.flatMap((given) =>
        (given.dtypes ?? benchDTypes).map((dtype) => {
          const { instructions } = compile(graphOf(given, dtype), 1, { isOffloaded: offloadedIn(given.inputs) });
          return `${given.name} ${dtype} ${instructions.map(({ op }) => op)}`;
        }),
      );
      expect(new Set(keys).size, name).toBe(keys.length);
    }
  });

  it('are chosen by part of a name', async () => {
    expect((await loadFamilies('attention')).map(({ name }) => name)).toEqual(['attention']);
    expect((await loadFamilies('unslice')).map(({ name }) => name)).toEqual(['shape']);
    expect(await loadFamilies('nothing')).toEqual([]);
  });
});

const tiny: Family = {
  name: 'rms-norm',
  kernels: ['rms-norm', 'rms-norm-backward'],
  cases: [4, 8].map((rows) =>
    benchCase({
      name: `${rows} × 32`,
      inputs: { x: { shape: [rows, 32] }, weight: { shape: [32], dtype: 'fp32' } },
      build: ({ x, weight }) => rmsNorm(x, weight, 1e-6),
      wrt: ['x'],
    }),
  ),
};

describe('a run', () => {
  const peaks = () => measurePeaks(testDevice(), { size: 64, copyBytes: 1 << 16, seconds: 0 });

  it('has every op in every shape and number format, with rates from its own cost', async () => {
    const lines: string[] = [];
    const report = await runBenches(testDevice(), [tiny], { seconds: 0, peaks, write: (line) => lines.push(line) });
    expect(report.results.map(({ op, shape, dtype }) => [op, shape, dtype])).toEqual(
      ['4 × 32', '8 × 32'].flatMap((shape) =>
        ['fp32', 'bf16'].flatMap((dtype) => ['rms-norm', 'rms-norm-backward'].map((op) => [op, shape, dtype])),
      ),
    );
    const [first] = report.results;
    expect(first).toMatchObject({ family: 'rms-norm', calls: 1, runs: 5 });
    expect((first?.gflops ?? 0) * (first?.ms ?? 0)).toBeCloseTo((4 * 4 * 32) / 1e6, 9);
    expect((first?.gbs ?? 0) * (first?.ms ?? 0)).toBeCloseTo((4 * (2 * 4 * 32 + 32)) / 1e6, 9);
    expect(first?.ofProduct).toBeCloseTo((first?.gflops ?? 0) / report.peaks.product.fp32, 9);
    expect(first?.ofCopy).toBeCloseTo((first?.gbs ?? 0) / report.peaks.copy, 9);
    expect(report.machine).toMatchObject({ threads: 2, instructionSet: loadAddon().features().isa });
    expect(lines).toHaveLength(5 + report.results.length);
  });

  it('takes some shapes and number formats only', async () => {
    const options = { seconds: 0, peaks, write: () => {}, shape: '8 ×', dtype: 'bf16' } as const;
    const { results } = await runBenches(testDevice(), [tiny], options);
    expect(results.map(({ op, shape, dtype }) => [op, shape, dtype])).toEqual([
      ['rms-norm', '8 × 32', 'bf16'],
      ['rms-norm-backward', '8 × 32', 'bf16'],
    ]);
  });

  it('is compared with an older one: above 1, it is faster now', async () => {
    const now = await runBenches(testDevice(), [tiny], { seconds: 0, peaks, write: () => {} });
    const [first, , third] = now.results;
    const older: BenchReport = {
      ...now,
      results: [
        { ...first!, ms: 3 * first!.ms },
        { ...third!, shape: 'another' },
      ],
    };
    const [head, ...rows] = compareLines(older, now);
    expect(head).toMatch(/^op +shape +dtype +old ms +ms +ratio$/);
    expect(rows).toEqual([expect.stringMatching(/^rms-norm +4 × 32 +fp32 .* 3\.00$/)]);
    const elsewhere = { ...older, machine: { ...older.machine, threads: 7 } };
    expect(compareLines(elsewhere, now)[0]).toContain('another machine');
  });
});

it('medians and quartiles', () => {
  expect(quantile([5, 1, 3], 0.5)).toBe(3);
  expect(quantile([1, 2, 3, 4], 0.5)).toBe(2.5);
  expect([quantile([1, 2, 3, 4, 5], 0.25), quantile([7], 0.75)]).toEqual([2, 7]);
});

it('the program writes a report and compares it', () => {
  const out = join(dir, 'new/report.json');
  const bench = (...args: string[]) =>
    spawnSync(process.execPath, ['--import', './bench/support/typescript.mjs', 'bench/run.ts', ...args], {
      cwd: root,
      encoding: 'utf8',
    });
  const args = ['--op', 'softmax', '--shape', '2048', '--dtype', 'fp32', '--seconds', '0', '--threads', '1'];
  const first = bench(...args, '--out', out);
  expect(first.stderr).toBe('');
  const report = JSON.parse(readFileSync(out, 'utf8')) as BenchReport;
  expect(report.results.map(({ op }) => op)).toEqual(['softmax', 'softmax-backward']);
  expect(report.peaks.copy).toBeGreaterThan(0);
  for (const result of report.results) result.ms *= 1e6;
  const older = join(dir, 'older.json');
  writeFileSync(older, JSON.stringify(report));
  const second = bench(...args, '--out', out, '--compare', older);
  expect(second.stdout).toMatch(/old ms +ms +ratio\nsoftmax .* [\d.]+$/m);
  expect(bench('--dtype', 'fp64').stderr).toMatch(/fp64/);
  for (const broken of ['{', '{}', 'null']) {
    writeFileSync(older, broken);
    const { stderr, status } = bench('--compare', older);
    expect(stderr, broken).toMatch(/^error: expected a JSON of an earlier bench in .*older\.json.*\n$/);
    expect(status).toBe(1);
  }
}, 120_000);
