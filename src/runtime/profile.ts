import type { InstructionTime } from './device.js';

/** Instructions of a profiled run that belong together. */
export interface ProfileRow {
  name: string;
  calls: number;
  ms: number;
  /** Of the whole run's time, 0 … 1. */
  share: number;
  /** 10⁹ floating-point operations a second; 0 where none are counted. */
  gflops: number;
  /** 10⁹ bytes read and written a second. */
  gbs: number;
}

const groupings = {
  op: ({ op }: InstructionTime) => op,
  // Layers of one kind are one row: model.layers.3.mlp is model.layers.*.mlp.
  module: ({ scope }: InstructionTime) => scope.replace(/(^|\.)\d+(?=\.|$)/g, '$1*') || '(none)',
};

/** Sums of a profiled run by op or by module, the most expensive first. */
export function profileRows(times: readonly InstructionTime[], by: keyof typeof groupings): ProfileRow[] {
  const sums = new Map<string, { calls: number; ms: number; flops: number; bytes: number }>();
  for (const time of times) {
    const name = groupings[by](time);
    const sum = sums.get(name) ?? { calls: 0, ms: 0, flops: 0, bytes: 0 };
    sum.calls++;
    sum.ms += time.ms;
    sum.flops += time.flops;
    sum.bytes += time.bytesRead + time.bytesWritten;
    sums.set(name, sum);
  }
  const total = times.reduce((sum, { ms }) => sum + ms, 0);
  return [...sums]
    .map(([name, { calls, ms, flops, bytes }]) => ({
      name,
      calls,
      ms,
      share: total > 0 ? ms / total : 0,
      gflops: perSecond(flops, ms),
      gbs: perSecond(bytes, ms),
    }))
    .sort((a, b) => b.ms - a.ms);
}

/** 10⁹ a second; 0 for what took no time that could be measured. */
export const perSecond = (amount: number, ms: number): number => (ms > 0 ? amount / ms / 1e6 : 0);

/** A table of a profiled run: op or module, calls, milliseconds, share, GFLOP/s, GB/s; the most expensive first. */
export function profileTable(times: readonly InstructionTime[], by: keyof typeof groupings = 'op'): string {
  const rows = profileRows(times, by);
  const width = Math.max(30, ...rows.map(({ name }) => name.length + 1));
  const line = (cells: readonly string[]) =>
    cells
      .map((cell, i) => (i === 0 ? cell.padEnd(width) : cell.padStart(10)))
      .join('')
      .trimEnd();
  const rate = (value: number) => (value > 0 ? value.toFixed(1) : '-');
  const total = rows.reduce((sum, { ms }) => sum + ms, 0);
  return [
    line([by, 'calls', 'ms', 'share', 'GFLOP/s', 'GB/s']),
    ...rows.map(({ name, calls, ms, share, gflops, gbs }) =>
      line([name, `${calls}`, ms.toFixed(2), `${(100 * share).toFixed(1)} %`, rate(gflops), rate(gbs)]),
    ),
    line(['total', `${times.length}`, total.toFixed(2)]),
  ].join('\n');
}
