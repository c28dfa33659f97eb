// A profiled run in the Trace Event Format of chrome://tracing and https://ui.perfetto.dev.
import type { InstructionTime } from './device.js';
import { perSecond } from './profile.js';

interface TraceEvent {
  name: string;
  ph: 'X' | 'M';
  pid: number;
  tid: number;
  /** Microseconds. */
  ts?: number;
  dur?: number;
  cat?: string;
  args: Record<string, string | number>;
}

/** What trace viewers open. */
export interface ChromeTrace {
  displayTimeUnit: 'ms';
  otherData: Record<string, string | number>;
  traceEvents: TraceEvent[];
}

/**
 * One event an instruction, a track a queue. Durations are measured; an instruction is drawn right behind the one before it
 * on its queue, so gaps and waits between them are not shown.
 *
 * @param about - shown by the viewer as data of the whole trace
 */
export function chromeTrace(
  times: readonly InstructionTime[],
  about: Record<string, string | number> = {},
): ChromeTrace {
  const queues = [...new Set(times.map(({ queue }) => queue))];
  const ends = queues.map(() => 0);
  const tracks = queues.map(
    (queue, tid): TraceEvent => ({ name: 'thread_name', ph: 'M', pid: 0, tid, args: { name: queue } }),
  );
  const events = times.map(({ op, program, queue, ms, scope, kernel, flops, bytesRead, bytesWritten }): TraceEvent => {
    const tid = queues.indexOf(queue);
    const ts = ends[tid] as number;
    const dur = 1000 * ms;
    ends[tid] = ts + dur;
    const rates = { 'GFLOP/s': perSecond(flops, ms), 'GB/s': perSecond(bytesRead + bytesWritten, ms) };
    const args = { module: scope, program, kernel, flops, bytesRead, bytesWritten, ...rates };
    return { name: op, cat: program, ph: 'X', pid: 0, tid, ts, dur, args };
  });
  return { displayTimeUnit: 'ms', otherData: about, traceEvents: [...tracks, ...events] };
}
