// What a bench of kernels leaves: a table, a JSON file, and ratios to an older one.
import { readFile } from 'node:fs/promises';
import type { Machine, Peaks } from './machine.js';
import type { Measurement } from './measure.js';

export interface BenchReport {
  machine: Machine;
  peaks: Peaks;
  results: Measurement[];
}

/** What `npm run bench` wrote earlier. @throws Error naming the file when it is nothing of the kind */
export async function readReport(path: string): Promise<BenchReport> {
  try {
    const report = JSON.parse(await readFile(path, 'utf8')) as Partial<BenchReport> | null;
    if (report?.machine && Array.isArray(report.results)) return report as BenchReport;
  } catch (error) {
    throw new Error(`expected a JSON of an earlier bench in ${path}: ${(error as Error).message}`);
  }
  throw new Error(`expected a JSON of an earlier bench in ${path}, got another`);
}

const percent = (share: number) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
const rate = (value: number) => (value > 0 ? value.toFixed(value < 10 ? 1 : 0) : '-');

export function headLines({ cpu, threads, instructionSet, onednn, load, lastLevelCacheBytes }: Machine): string[] {
  return [
    `${cpu}, ${threads} thread${threads === 1 ? '' : 's'}, ${instructionSet}, ${onednn}`,
    `last-level cache ${lastLevelCacheBytes / 2 ** 20} MiB, load of the machine ${load}`,
  ];
}

export function peakLine({ product, copy }: Peaks): string {
  return `peaks: products ${rate(product.fp32)} GFLOP/s in fp32, ${rate(product.bf16)} in bf16; copying ${rate(copy)} GB/s`;
}

export const columns = ['op', 'shape', 'dtype', 'ms', '±', 'GFLOP/s', 'of peak', 'GB/s', 'of copy'];
export const widths = [34, 44, 6, 10, 8, 9, 9, 8, 9];

export function cellsOf({ op, shape, dtype, ms, spread, gflops, ofProduct, gbs, ofCopy }: Measurement): string[] {
  const rates = [rate(gflops), gflops > 0 ? percent(ofProduct) : '-', rate(gbs), gbs > 0 ? percent(ofCopy) : '-'];
  return [op, shape, dtype, ms.toFixed(3), percent(spread), ...rates];
}

/** Texts to the left, numbers to the right. */
export function line(cells: readonly string[], texts = 3): string {
  return cells
    .map((cell, i) => (i < texts ? cell.padEnd(widths[i] ?? 10) : cell.padStart(widths[i] ?? 10)))
    .join(' ')
    .trimEnd();
}

const keyOf = ({ op, shape, dtype }: Measurement) => [op, shape, dtype].join('\n');

/** Lines of old and new milliseconds and their ratio (above 1: faster now), for what both reports measured. */
export function compareLines(old: BenchReport, now: BenchReport): string[] {
  const before = new Map(old.results.map((result) => [keyOf(result), result]));
  const rows = now.results.flatMap((result) => {
    const match = before.get(keyOf(result));
    if (!match) return [];
    const { op, shape, dtype, ms } = result;
    return [line([op, shape, dtype, match.ms.toFixed(3), ms.toFixed(3), (match.ms / ms).toFixed(2)])];
  });
  const other = now.machine.threads === old.machine.threads && now.machine.cpu === old.machine.cpu ? '' : otherMachine;
  return [...(other ? [other] : []), line(['op', 'shape', 'dtype', 'old ms', 'ms', 'ratio']), ...rows];
}

const otherMachine = 'the older report is of another machine or number of threads';
