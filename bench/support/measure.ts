// Times the kernels of a family on a case.
import { gradients } from '../../src/autodiff/gradients.js';
import { Graph, type Value } from '../../src/graph/graph.js';
import { add, cast, multiply } from '../../src/ops/elementwise.js';
import { sum } from '../../src/ops/reduce.js';
import type { Device, InstructionTime } from '../../src/runtime/device.js';
import { perSecond } from '../../src/runtime/profile.js';
import type { BenchCase, BenchDType } from './bench-case.js';
import type { Family } from './families.js';
import type { Peaks } from './machine.js';
import { type Effort, timeGraph } from './time-graph.js';

/** An op on a shape. Times are of all its calls in the graph together. */
export interface Measurement {
  family: string;
  op: string;
  shape: string;
  dtype: BenchDType;
  calls: number;
  /** Median. */
  ms: number;
  /** Half of what lies between the quartiles, as a share of the median. */
  spread: number;
  runs: number;
  gflops: number;
  gbs: number;
  /** Shares of the measured peaks of the machine. */
  ofProduct: number;
  ofCopy: number;
}

/** The graph that a case is timed as. */
export function graphOf({ inputs, build, wrt = [] }: BenchCase, dtype: BenchDType): Graph {
  const graph = new Graph();
  const values = Object.fromEntries(
    Object.entries(inputs).map(([name, { shape, dtype: kind = 'float' }]) => [
      name,
      graph.slot(name, shape, kind === 'float' ? dtype : kind),
    ]),
  );
  const built = build(values, graph);
  const outputs = Array.isArray(built) ? (built as readonly Value[]) : [built as Value];
  for (const [i, output] of outputs.entries()) graph.output(`y${i}`, output);
  if (wrt.length === 0) return graph;
  const found = gradients(
    outputs.map((output, i) => scalarOf(graph, output, i)).reduce((a, b) => add(a, b)),
    wrt.map((name) => values[name] as Value),
  );
  for (const [i, name] of wrt.entries()) graph.output(`d${name}`, found[i] as Value);
  return graph;
}

/** A loss whose gradient by the output is a slot. */
function scalarOf(graph: Graph, output: Value, i: number): Value {
  if (output.size === 1) return output;
  const weighted = multiply(cast(output, 'fp32'), graph.slot(`dy${i}`, output.shape, 'fp32'));
  return sum(
    weighted,
    output.shape.map((_, axis) => axis),
  );
}

/** Times the family's own kernels: what else the graph needs, to sum gradients or to make one, is not its business. */
export async function measureCase(
  device: Device,
  { name: family, kernels }: Family,
  given: BenchCase,
  dtype: BenchDType,
  { peaks, ...effort }: Effort & { peaks: Peaks },
): Promise<Measurement[]> {
  const runs = await timeGraph(device, graphOf(given, dtype), given.inputs, effort);
  const ops = new Set(runs[0]?.filter(({ kernel }) => kernels.includes(kernel)).map(({ op }) => op));
  return [...ops].map((op) => {
    const calls = runs.map((run) => run.filter((time) => time.op === op && kernels.includes(time.kernel)));
    const total = (of: (time: InstructionTime) => number) => (calls[0] ?? []).reduce((all, time) => all + of(time), 0);
    const times = calls.map((call) => call.reduce((ms, time) => ms + time.ms, 0));
    const ms = quantile(times, 0.5);
    const gflops = perSecond(
      total(({ flops }) => flops),
      ms,
    );
    const gbs = perSecond(
      total(({ bytesRead, bytesWritten }) => bytesRead + bytesWritten),
      ms,
    );
    return {
      ...{ family, op, shape: given.name, dtype, calls: calls[0]?.length ?? 0, ms },
      spread: ms > 0 ? (quantile(times, 0.75) - quantile(times, 0.25)) / 2 / ms : 0,
      ...{ runs: runs.length, gflops, gbs, ofProduct: gflops / peaks.product[dtype], ofCopy: gbs / peaks.copy },
    };
  });
}

/** @param share - 0 … 1; 0.5: the median */
export function quantile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  const at = share * (sorted.length - 1);
  const [low, high] = [sorted[Math.floor(at)] ?? Number.NaN, sorted[Math.ceil(at)] ?? Number.NaN];
  return low + (high - low) * (at - Math.floor(at));
}
