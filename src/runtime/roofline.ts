// What a graph would take on a GPU, on paper: each node no longer than its arithmetic or its memory traffic needs at the share
// of the GPU's peaks that its kernel is assumed to reach. Nothing is measured; docs/roofline.md compares with what others
// have measured.
import { bytesOf, type DType, isFloat } from '../core/dtype.js';
import { costOf } from '../graph/cost.js';
import type { Graph, Node } from '../graph/graph.js';
import type { Gpu, GpuKind } from './gpus.js';

/** What limits a kernel: arithmetic, memory, or that it begins and ends. */
export type Bound = 'compute' | 'memory' | 'latency';

/** A node on a GPU. */
export interface PredictedNode {
  op: string;
  kernel: string;
  scope: string;
  /** How often it runs in an update. */
  times: number;
  /** Of each time, as all that follows. */
  flops: number;
  bytes: number;
  seconds: number;
  /** The same at the GPU's very peaks, with nothing lost. */
  leastSeconds: number;
  bound: Bound;
}

/** Nodes of a kernel together. */
export interface PredictedKernel {
  kernel: string;
  count: number;
  flops: number;
  bytes: number;
  seconds: number;
  /** Of its time, how much the peaks explain: 1 is a kernel that loses nothing. */
  shareOfRoofline: number;
  /** What most of its time is limited by. */
  bound: Bound;
}

/** Kinds of arithmetic, which reach different shares of the peak. */
type Arithmetic = 'libraryProduct' | 'ownProduct' | 'attention' | 'attentionGradient' | 'plain';

const arithmeticOf: Readonly<Record<string, Arithmetic>> = {
  matmul: 'libraryProduct',
  'packed-matmul': 'libraryProduct',
  'grouped-matmul': 'ownProduct',
  'grouped-matmul-weight-gradient': 'ownProduct',
  'linear-cross-entropy': 'ownProduct',
  attention: 'attention',
  'attention-backward': 'attentionGradient',
};

/**
 * Shares of the peak of 16-bit products that are assumed, each below what others have published.
 *
 * libraryProduct: cuBLASLt on matrices of thousands of rows: about 250 of 312 TFLOP/s on A100, 700 of 989 on H100, 1,610 of
 * 2,250 on B200 (pyptx.dev/performance).
 * ownProduct: tiles of mma.sync. On GPUs of Ampere's and the graphics cards' kind that is what libraries are made of, too; on
 * Hopper mma.sync reaches at most 63 % of the peak (arXiv:2402.13499), which is wgmma's; on Blackwell, whose peak is
 * tcgen05's, the same rate a multiprocessor would be 31 %, and nothing better is known.
 * linear-cross-entropy counts with them: its products are the library's, but its logits pass through memory between these.
 * attention: FlashAttention-2, made the same way, has 50 to 73 % forward and up to 63 % backward on A100 (arXiv:2307.08691),
 * 35 % on H100 (arXiv:2407.08608).
 */
const reachable: Readonly<Record<GpuKind, Readonly<Record<Exclude<Arithmetic, 'plain'>, number>>>> = {
  ampere: { libraryProduct: 0.8, ownProduct: 0.6, attention: 0.55, attentionGradient: 0.45 },
  graphics: { libraryProduct: 0.8, ownProduct: 0.65, attention: 0.55, attentionGradient: 0.45 },
  hopper: { libraryProduct: 0.7, ownProduct: 0.4, attention: 0.3, attentionGradient: 0.25 },
  blackwell: { libraryProduct: 0.7, ownProduct: 0.2, attention: 0.15, attentionGradient: 0.12 },
};

/** Without tensor cores: half of the instructions of such kernels are loads, address arithmetic and comparisons. */
const reachableFp32 = 0.5;
/** Copies and triads of BabelStream have 85 to 92 % of the published bandwidth on A100 and H100. */
const reachableBandwidth = 0.85;
/**
 * From the end of a kernel to the end of the next small one, both in a CUDA graph: about a microsecond until it begins, and
 * what its first loads and last stores take.
 */
const latencySeconds = 2.5e-6;

/** The assumptions, for people and programs. */
export const rooflineAssumptions = { reachable, reachableFp32, reachableBandwidth, latencySeconds } as const;

/**
 * Every node that is an instruction, in order.
 *
 * @param graph - as compile() plans it @param times - how often it runs in an update
 */
export function predictNodes(graph: Graph, gpu: Gpu, times = 1): PredictedNode[] {
  return graph.nodes.filter(({ op }) => !op.isSource && !op.isView).map((node) => predictNode(node, gpu, times));
}

function predictNode(node: Node, gpu: Gpu, times: number): PredictedNode {
  const { op, inputs, outputs, attrs, scope } = node;
  const kernel = op.kernel?.(inputs, outputs, attrs).kernel ?? op.name;
  const { flops, bytesRead, bytesWritten } = costOf(node);
  const bytes = bytesRead + bytesWritten;
  const arithmetic = arithmeticOf[kernel] ?? 'plain';
  // Tensor cores take both factors in 16 bits; those of fp8 numbers are multiplied as such.
  const usesTensorCores = inputs.filter((input) => input && isNarrow(input.dtype)).length >= 2;
  const [peak, share] =
    arithmetic !== 'plain' && usesTensorCores
      ? [gpu.halfFlops, reachable[gpu.kind][arithmetic]]
      : [gpu.fp32Flops, reachableFp32];
  const compute = flops / (peak * share);
  const memory = bytes / (gpu.bandwidth * reachableBandwidth);
  const work = Math.max(compute, memory);
  const bound = work < latencySeconds ? 'latency' : compute > memory ? 'compute' : 'memory';
  const leastSeconds = Math.max(flops / peak, bytes / gpu.bandwidth);
  return { op: op.name, kernel, scope, times, flops, bytes, seconds: work + latencySeconds, leastSeconds, bound };
}

const isNarrow = (dtype: DType): boolean => isFloat(dtype) && bytesOf(dtype, 1) <= 2;

/** Sums by kernel, the longest first. */
export function byKernel(nodes: readonly PredictedNode[]): PredictedKernel[] {
  const groups = new Map<string, PredictedNode[]>();
  for (const node of nodes) {
    const group = groups.get(node.kernel);
    if (group) group.push(node);
    else groups.set(node.kernel, [node]);
  }
  const kernels = [...groups].map(([kernel, group]) => {
    const sum = (pick: (node: PredictedNode) => number) =>
      group.reduce((total, node) => total + node.times * pick(node), 0);
    const inBound = (bound: Bound) => sum((node) => (node.bound === bound ? node.seconds : 0));
    const seconds = sum((node) => node.seconds);
    return {
      kernel,
      count: sum(() => 1),
      flops: sum(({ flops }) => flops),
      bytes: sum(({ bytes }) => bytes),
      seconds,
      shareOfRoofline: sum(({ leastSeconds }) => leastSeconds) / seconds,
      bound: bounds.reduce((most, bound) => (inBound(bound) > inBound(most) ? bound : most)),
    };
  });
  return kernels.sort((a, b) => b.seconds - a.seconds);
}

const bounds: readonly Bound[] = ['compute', 'memory', 'latency'];
