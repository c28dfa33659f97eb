// The machine that a bench runs on, and the most it can do: what shares are shares of.
import os from 'node:os';
import { loadAddon } from '../../src/addon/addon.js';
import { Graph } from '../../src/graph/graph.js';
import { matmul } from '../../src/ops/matmul.js';
import type { Device } from '../../src/runtime/device.js';
import { type BenchDType, benchDTypes } from './bench-case.js';
import { lastLevelCacheBytes } from './cache.js';
import { timeGraph } from './time-graph.js';

export interface Machine {
  cpu: string;
  cores: number;
  threads: number;
  instructionSet: string;
  onednn: string;
  lastLevelCacheBytes: number;
  node: string;
  /** Processes that wanted to run in the last minute, when the bench began: of 0 the numbers are worth most. */
  load: number;
}

export function describeMachine(threads: number): Machine {
  const { isa, onednn } = loadAddon().features();
  return {
    cpu: os.cpus()[0]?.model ?? 'unknown',
    cores: os.availableParallelism(),
    threads,
    instructionSet: isa,
    onednn,
    lastLevelCacheBytes: lastLevelCacheBytes(),
    node: process.versions.node,
    load: loadOfMachine(),
  };
}

export const loadOfMachine = (): number => Number(os.loadavg()[0]?.toFixed(2));

/** Measured, not computed from a data sheet. */
export interface Peaks {
  /** GFLOP/s of a product 2048³ through our matmul. */
  product: Record<BenchDType, number>;
  /** GB/s, read and written, of copying four times the last-level cache. */
  copy: number;
}

/** @param options.size - of the product's sides; smaller for tests */
export async function measurePeaks(
  device: Device,
  { size = 2048, copyBytes = 4 * lastLevelCacheBytes(), seconds = 1 } = {},
): Promise<Peaks> {
  const product = {} as Peaks['product'];
  for (const dtype of benchDTypes) {
    const graph = new Graph();
    const [a, b] = ['a', 'b'].map((name) => graph.slot(name, [size, size], dtype));
    if (a && b) graph.output('c', matmul(a, b, { transposeB: true }));
    product[dtype] = await best(device, graph, seconds, ({ flops }) => flops);
  }
  const graph = new Graph();
  graph.output('y', graph.slot('x', [copyBytes / 4], 'fp32')); // an output of another name: the planner copies
  return {
    product,
    copy: await best(device, graph, seconds, ({ bytesRead, bytesWritten }) => bytesRead + bytesWritten),
  };
}

async function best(
  device: Device,
  graph: Graph,
  seconds: number,
  amount: (cost: { flops: number; bytesRead: number; bytesWritten: number }) => number,
): Promise<number> {
  const runs = await timeGraph(device, graph, {}, { seconds });
  const rates = runs.map(([only]) => (only ? amount(only) / only.ms / 1e6 : 0));
  return Math.max(...rates);
}
