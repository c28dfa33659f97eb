import type { Device } from '../../src/runtime/device.js';
import { type BenchDType, benchDTypes } from './bench-case.js';
import type { Family } from './families.js';
import { describeMachine, type Peaks } from './machine.js';
import { measureCase } from './measure.js';
import { type BenchReport, cellsOf, columns, headLines, line, peakLine } from './report.js';

export interface BenchOptions {
  /** What each shape is given, beyond the fewest runs. */
  seconds: number;
  /** Part of a shape's description; unless given, all. */
  shape?: string;
  /** Unless given, all that a case is for. */
  dtype?: BenchDType;
  /** Measures what shares are shares of. */
  peaks: () => Promise<Peaks>;
  write: (line: string) => void;
}

/** Times families case by case, a line each as it is there. */
export async function runBenches(
  device: Device,
  families: readonly Family[],
  { seconds, shape = '', dtype: only, peaks: measurePeaks, write }: BenchOptions,
): Promise<BenchReport> {
  const machine = describeMachine(device.threads);
  for (const text of headLines(machine)) write(text);
  const peaks = await measurePeaks();
  for (const text of [peakLine(peaks), '', line(columns)]) write(text);
  const results = [];
  for (const family of families) {
    for (const given of family.cases.filter(({ name }) => name.includes(shape))) {
      for (const dtype of given.dtypes ?? benchDTypes) {
        if (only !== undefined && dtype !== only) continue;
        const measured = await measureCase(device, family, given, dtype, { seconds, peaks });
        for (const result of measured) write(line(cellsOf(result)));
        results.push(...measured);
      }
    }
  }
  return { machine, peaks, results };
}
