import type { InstructionTime } from './device.js';

/** A table of a profiled run: op, calls, milliseconds, share, GFLOP/s, GB/s; the most expensive op first. */
export function profileTable(times: readonly InstructionTime[]): string {
  const rows = new Map<string, { calls: number; ms: number; flops: number; bytes: number }>();
  for (const { op, ms, flops, bytesRead, bytesWritten } of times) {
    const row = rows.get(op) ?? { calls: 0, ms: 0, flops: 0, bytes: 0 };
    row.calls++;
    row.ms += ms;
    row.flops += flops;
    row.bytes += bytesRead + bytesWritten;
    rows.set(op, row);
  }
  const total = times.reduce((sum, { ms }) => sum + ms, 0);
  const perSecond = (amount: number, ms: number) => (ms > 0 ? (amount / ms / 1e6).toFixed(1) : '-');
  const line = (cells: readonly string[]) =>
    cells
      .map((cell, i) => (i === 0 ? cell.padEnd(30) : cell.padStart(10)))
      .join('')
      .trimEnd();
  const body = [...rows]
    .sort(([, a], [, b]) => b.ms - a.ms)
    .map(([op, { calls, ms, flops, bytes }]) =>
      line([
        op,
        `${calls}`,
        ms.toFixed(2),
        `${((100 * ms) / total).toFixed(1)} %`,
        perSecond(flops, ms),
        perSecond(bytes, ms),
      ]),
    );
  return [
    line(['op', 'calls', 'ms', 'share', 'GFLOP/s', 'GB/s']),
    ...body,
    line(['total', `${times.length}`, total.toFixed(2)]),
  ].join('\n');
}
