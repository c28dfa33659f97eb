// What a kernel is timed on: a few ops over random inputs.
import type { Graph, Value } from '../../src/graph/graph.js';
import type { IsOffloaded } from '../../src/runtime/plan.js';

/** Number formats that benches run in. */
export const benchDTypes = ['fp32', 'bf16'] as const;
export type BenchDType = (typeof benchDTypes)[number];

export interface BenchInput {
  shape: readonly number[];
  /** 'float' (the default) follows the dtype that is measured. */
  dtype?: 'float' | 'fp32' | 'int32';
  /** Of the normal distribution that floats are drawn from; 0 and 1 unless given. */
  mean?: number;
  std?: number;
  /** Of each element of an int32 input. */
  values?: (index: number) => number;
  /** Whether it lies in a file. */
  offloaded?: true;
}

export interface BenchCase {
  /** The shape, as the table shows it. */
  name: string;
  inputs: Readonly<Record<string, BenchInput>>;
  /** What it returns is kept as outputs. Inputs are slots of the graph, by name. */
  build(values: Readonly<Record<string, Value>>, graph: Graph): Value | readonly Value[];
  /** Inputs whose gradients are computed as well. */
  wrt?: readonly string[];
  /** Default: all. */
  dtypes?: readonly BenchDType[];
}

/** Which slots lie in a file, as programs are compiled for it. */
export const offloadedIn =
  (inputs: Readonly<Record<string, BenchInput>>): IsOffloaded =>
  ({ name }) =>
    inputs[name]?.offloaded === true;

/** A case whose `build` and `wrt` know the inputs by name. */
export function benchCase<Name extends string>(given: {
  name: string;
  inputs: Readonly<Record<Name, BenchInput>>;
  build(values: Readonly<Record<Name, Value>>, graph: Graph): Value | readonly Value[];
  wrt?: readonly NoInfer<Name>[];
  dtypes?: readonly BenchDType[];
}): BenchCase {
  return given;
}
