// What a comparison found, and what follows from it: nothing here runs anything.
import { formatBytes, formatCount } from '../../src/core/format.js';
import type { Machine, Peaks } from '../support/machine.js';
import { quantile } from '../support/measure.js';
import type { PythonVersions } from './python.js';

/** What one process of either program prints. */
export interface StepRun {
  tokens_per_s: number;
  peak_rss_mb: number;
  loss_first: number;
  loss_last: number;
}

/** A program in one of its settings. */
export interface Variant {
  name: string;
  program: 'hadal' | 'PyTorch';
  dtype: 'fp32' | 'bf16';
  /** Kept from the instruction set that this machine is best at: not compared with PyTorch's best. */
  isHeldBack?: boolean;
}

export interface VariantResult extends Variant {
  /** Median. */
  tokensPerSecond: number;
  all: number[];
  peakMb: number;
  lossFirst: number;
  lossLast: number;
  /** Of the measured bf16 product peak; null for PyTorch. */
  ofPeak: number | null;
}

export interface ModelResult {
  name: string;
  parameters: number;
  batch: number;
  seq: number;
  /** 6 a multiplied parameter that is active, and causal attention. */
  flopsPerToken: number;
  load: number;
  variants: VariantResult[];
}

/** What one process of either program prints of a single op. */
export interface OpRun {
  /** Milliseconds, by way of computing it. */
  ways: Record<string, number>;
  extra_mb: number;
}

export interface OpResult {
  name: string;
  hadalMs: number;
  pytorchMs: number;
  /** PyTorch's fastest way. */
  way: string;
  /** Every way's milliseconds. */
  ways: Record<string, number>;
  hadalExtraMb: number;
  pytorchExtraMb: number;
}

/** All-reduce of a size: medians of rounds. */
export interface CommResult {
  processes: number;
  bytes: number;
  hadalMs: number;
  pytorchMs: number;
  load: number;
}

export interface PeersReport {
  machine: Machine;
  python: PythonVersions;
  peaks: Peaks;
  rounds: number;
  models: ModelResult[];
  ops: OpResult[];
  comm: CommResult[];
  /** What was not measured, and why. */
  leftOut: string[];
}

export function summarize(
  variant: Variant,
  runs: readonly StepRun[],
  flopsPerToken: number,
  bf16Peak: number,
): VariantResult {
  const all = runs.map((run) => run.tokens_per_s);
  const tokensPerSecond = quantile(all, 0.5);
  const [first] = runs as [StepRun];
  return {
    ...variant,
    ...{ tokensPerSecond, all },
    peakMb: Math.max(...runs.map((run) => run.peak_rss_mb)),
    lossFirst: first.loss_first,
    lossLast: first.loss_last,
    ofPeak: variant.program === 'hadal' ? (tokensPerSecond * flopsPerToken) / (1e9 * bf16Peak) : null,
  };
}

export function summarizeOp(name: string, hadal: readonly OpRun[], pytorch: readonly OpRun[]): OpResult {
  const medianOf = (runs: readonly OpRun[], way: string) =>
    quantile(
      runs.map(({ ways }) => ways[way] as number),
      0.5,
    );
  const least = (runs: readonly OpRun[]) => Math.min(...runs.map((run) => run.extra_mb));
  const ways = Object.fromEntries(Object.keys(pytorch[0]?.ways ?? {}).map((way) => [way, medianOf(pytorch, way)]));
  const [way, pytorchMs] = Object.entries(ways).sort(([, a], [, b]) => a - b)[0] as [string, number];
  const memory = { hadalExtraMb: least(hadal), pytorchExtraMb: least(pytorch) };
  return { name, hadalMs: medianOf(hadal, 'hadal'), pytorchMs, way, ways, ...memory };
}

/** How far losses may lie apart, relative: of the first step, and of the last, to which roundings add up. */
const allowances = { fp32: { first: 1e-4, last: 1e-3 }, bf16: { first: 1e-2, last: 1e-2 } };

/** Where a program does not compute what PyTorch does in fp32. */
export function lossMismatches({ name, variants }: Pick<ModelResult, 'name' | 'variants'>): string[] {
  const reference = variants.find(({ program, dtype }) => program === 'PyTorch' && dtype === 'fp32');
  if (!reference) return [`${name}: no PyTorch in fp32 to compare losses with`];
  return variants.flatMap((variant) =>
    (['first', 'last'] as const).flatMap((which) => {
      const key = which === 'first' ? 'lossFirst' : 'lossLast';
      const [got, expected] = [variant[key], reference[key]];
      const allowed = allowances[variant.dtype][which];
      if (Math.abs(got - expected) <= allowed * Math.abs(expected)) return [];
      return [`${name}: ${which} loss of ${variant.name} expected within ${allowed} of ${expected}, got ${got}`];
    }),
  );
}

const best = (variants: readonly VariantResult[]) =>
  variants.reduce<VariantResult | null>((a, b) => (a && a.tokensPerSecond >= b.tokensPerSecond ? a : b), null);
const integer = (value: number) => Math.round(value).toLocaleString('en-US');
const ratio = (a: number | undefined, b: number | undefined) => (a && b ? `${(a / b).toFixed(2)}×` : '–');
const row = (cells: readonly string[]) => `| ${cells.join(' | ')} |`;
const heading = (cells: readonly string[]) => [row(cells), row(cells.map((_, i) => (i === 0 ? '---' : '--:')))];

/** The tables, for people. */
export function markdownOf({ machine, python, peaks, rounds, models, ops, comm, leftOut }: PeersReport): string {
  const { cpu, threads, instructionSet, onednn, load } = machine;
  return [
    `hadal (${instructionSet}, ${onednn}) and PyTorch ${python.torch}, transformers ${python.transformers}, on ${cpu}, ${threads} threads.`,
    `Medians of ${rounds} interleaved runs, a process each; load of the machine at the beginning ${load}. Measured peaks: products`,
    `${peaks.product.fp32.toFixed(0)} GFLOP/s in fp32, ${peaks.product.bf16.toFixed(0)} in bf16; copying ${peaks.copy.toFixed(1)} GB/s.`,
    ...(models.length > 0 ? ['', ...ratioTable(models)] : []),
    ...models.flatMap((model) => ['', ...modelTable(model)]),
    ...(ops.length > 0 ? ['', ...opTable(ops)] : []),
    ...(comm.length > 0 ? ['', ...commTable(comm)] : []),
    ...(leftOut.length > 0 ? ['', `Left out: ${leftOut.length}`, ...leftOut.map((reason) => `- ${reason}`)] : []),
    '',
  ].join('\n');
}

function ratioTable(models: readonly ModelResult[]): string[] {
  const rows = models.map(({ name, variants }) => {
    const of = (program: Variant['program'], dtype?: Variant['dtype'], isHeldBack = false) =>
      best(
        variants.filter(
          (variant) =>
            variant.program === program &&
            (variant.isHeldBack ?? false) === isHeldBack &&
            (dtype === undefined || variant.dtype === dtype),
        ),
      );
    const speed = (a: VariantResult | null, b: VariantResult | null) => ratio(a?.tokensPerSecond, b?.tokensPerSecond);
    const memory = (dtype: Variant['dtype']) => ratio(of('hadal', dtype)?.peakMb, of('PyTorch', dtype)?.peakMb);
    return row([
      name,
      speed(of('hadal'), of('PyTorch')),
      speed(of('hadal', 'fp32'), of('PyTorch', 'fp32')),
      speed(of('hadal', 'bf16'), of('PyTorch', 'bf16')),
      speed(of('hadal', 'fp32', true), of('PyTorch', 'fp32')),
      memory('fp32'),
      memory('bf16'),
    ]);
  });
  const columns = ['tokens/s, hadal : PyTorch', 'best : best', 'fp32 : fp32', 'bf16 : bf16', 'AVX2 fp32 : fp32'];
  return [...heading([...columns, 'memory fp32', 'memory bf16']), ...rows];
}

function modelTable({ name, parameters, batch, seq, load, variants }: ModelResult): string[] {
  const peer = best(variants.filter(({ program }) => program === 'PyTorch'));
  const rows = variants.map((variant) =>
    row([
      variant.name,
      integer(variant.tokensPerSecond),
      ratio(variant.tokensPerSecond, peer?.tokensPerSecond),
      variant.ofPeak === null ? '–' : `${(100 * variant.ofPeak).toFixed(0)} %`,
      `${integer(variant.peakMb)} MB`,
      `${variant.lossFirst.toFixed(4)} → ${variant.lossLast.toFixed(4)}`,
    ]),
  );
  return [
    `${name}: ${formatCount(parameters)} parameters, batch ${batch} × ${seq}, load ${load}`,
    '',
    ...heading(['program', 'tokens/s', 'to PyTorch’s best', 'of bf16 peak', 'peak memory', 'loss']),
    ...rows,
  ];
}

function opTable(ops: readonly OpResult[]): string[] {
  const rows = ops.map(({ name, hadalMs, pytorchMs, way, hadalExtraMb, pytorchExtraMb }) =>
    row([
      name,
      `${hadalMs.toFixed(2)} ms`,
      `${pytorchMs.toFixed(2)} ms (${way})`,
      ratio(pytorchMs, hadalMs),
      `${integer(hadalExtraMb)} : ${integer(pytorchExtraMb)} MB`,
    ]),
  );
  return [...heading(['forward and backward', 'hadal', 'PyTorch, its best way', 'speed', 'memory']), ...rows];
}

function commTable(results: readonly CommResult[]): string[] {
  const rows = results.map(({ processes, bytes, hadalMs, pytorchMs }) =>
    row([
      `${processes} processes, ${formatBytes(bytes)}`,
      `${hadalMs.toFixed(2)} ms`,
      `${pytorchMs.toFixed(2)} ms`,
      ratio(pytorchMs, hadalMs),
    ]),
  );
  const ratios = results.map(({ hadalMs, pytorchMs }) => pytorchMs / hadalMs);
  return [
    ...heading(['all-reduce over loopback', 'hadal', 'PyTorch, Gloo', 'speed']),
    ...rows,
    '',
    `Median of the ratios: ${quantile(ratios, 0.5).toFixed(2)}; load ${results[0]?.load}.`,
  ];
}
