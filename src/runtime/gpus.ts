// GPUs as their makers describe them: peaks that no program reaches.

/** Of what a share of the peak can be reached depends on how a GPU's tensor cores are fed. */
export type GpuKind = 'ampere' | 'graphics' | 'hopper' | 'blackwell';

/** A GPU's published figures. */
export interface Gpu {
  title: string;
  kind: GpuKind;
  /** Operations a second of products of matrices of 16 bits with sums in fp32, without sparsity. */
  halfFlops: number;
  /** Operations a second in fp32, without tensor cores. */
  fp32Flops: number;
  /** Bytes a second of its memory. */
  bandwidth: number;
  memoryBytes: number;
  /** Multiprocessors. */
  processors: number;
  l2Bytes: number;
  /** Bytes a second to other GPUs of the machine, both directions together. */
  linkBandwidth: number;
  /** Where the figures are from. */
  source: string;
}

const T = 1e12;
const G = 1e9;
const MiB = 2 ** 20;

/** By the name that `--device` takes. */
export const gpus = {
  a100: {
    title: 'A100 SXM 80 GB',
    kind: 'ampere',
    ...{ halfFlops: 312 * T, fp32Flops: 19.5 * T, bandwidth: 2039 * G, memoryBytes: 80 * G },
    ...{ processors: 108, l2Bytes: 40 * MiB, linkBandwidth: 600 * G },
    source: 'NVIDIA A100 data sheet; GA100 white paper',
  },
  'a100-40gb': {
    title: 'A100 SXM 40 GB',
    kind: 'ampere',
    ...{ halfFlops: 312 * T, fp32Flops: 19.5 * T, bandwidth: 1555 * G, memoryBytes: 40 * G },
    ...{ processors: 108, l2Bytes: 40 * MiB, linkBandwidth: 600 * G },
    source: 'NVIDIA A100 data sheet; GA100 white paper',
  },
  h100: {
    title: 'H100 SXM 80 GB',
    kind: 'hopper',
    ...{ halfFlops: 989.4 * T, fp32Flops: 66.9 * T, bandwidth: 3352 * G, memoryBytes: 80 * G },
    ...{ processors: 132, l2Bytes: 50 * MiB, linkBandwidth: 900 * G },
    source: 'NVIDIA H100 data sheet and white paper',
  },
  'h100-pcie': {
    title: 'H100 PCIe 80 GB',
    kind: 'hopper',
    ...{ halfFlops: 756 * T, fp32Flops: 51.2 * T, bandwidth: 2039 * G, memoryBytes: 80 * G },
    ...{ processors: 114, l2Bytes: 50 * MiB, linkBandwidth: 128 * G },
    source: 'NVIDIA H100 white paper',
  },
  h200: {
    title: 'H200 SXM 141 GB',
    kind: 'hopper',
    ...{ halfFlops: 989.4 * T, fp32Flops: 66.9 * T, bandwidth: 4800 * G, memoryBytes: 141 * G },
    ...{ processors: 132, l2Bytes: 50 * MiB, linkBandwidth: 900 * G },
    source: 'NVIDIA H200 data sheet',
  },
  b200: {
    title: 'B200 SXM 180 GB',
    kind: 'blackwell',
    ...{ halfFlops: 2250 * T, fp32Flops: 75 * T, bandwidth: 7700 * G, memoryBytes: 180 * G },
    ...{ processors: 148, l2Bytes: 126 * MiB, linkBandwidth: 1800 * G },
    source: 'NVIDIA HGX B200 data sheet, an eighth of it',
  },
  l40s: {
    title: 'L40S 48 GB',
    kind: 'graphics',
    ...{ halfFlops: 362 * T, fp32Flops: 91.6 * T, bandwidth: 864 * G, memoryBytes: 48 * G },
    ...{ processors: 142, l2Bytes: 96 * MiB, linkBandwidth: 64 * G },
    source: 'NVIDIA L40S data sheet',
  },
  l4: {
    title: 'L4 24 GB',
    kind: 'graphics',
    ...{ halfFlops: 121 * T, fp32Flops: 30.3 * T, bandwidth: 300 * G, memoryBytes: 24 * G },
    ...{ processors: 58, l2Bytes: 48 * MiB, linkBandwidth: 64 * G },
    source: 'NVIDIA L4 data sheet',
  },
  a10: {
    title: 'A10 24 GB',
    kind: 'graphics',
    ...{ halfFlops: 125 * T, fp32Flops: 31.2 * T, bandwidth: 600 * G, memoryBytes: 24 * G },
    ...{ processors: 72, l2Bytes: 6 * MiB, linkBandwidth: 64 * G },
    source: 'NVIDIA A10 data sheet',
  },
  'rtx-3090': {
    title: 'GeForce RTX 3090 24 GB',
    kind: 'graphics',
    ...{ halfFlops: 71.2 * T, fp32Flops: 35.6 * T, bandwidth: 936 * G, memoryBytes: 24 * G },
    ...{ processors: 82, l2Bytes: 6 * MiB, linkBandwidth: 64 * G },
    source: 'NVIDIA GA102 white paper',
  },
  'rtx-4090': {
    title: 'GeForce RTX 4090 24 GB',
    kind: 'graphics',
    ...{ halfFlops: 165.2 * T, fp32Flops: 82.6 * T, bandwidth: 1008 * G, memoryBytes: 24 * G },
    ...{ processors: 128, l2Bytes: 72 * MiB, linkBandwidth: 64 * G },
    source: 'NVIDIA Ada white paper',
  },
  'rtx-5090': {
    title: 'GeForce RTX 5090 32 GB',
    kind: 'graphics',
    ...{ halfFlops: 209.5 * T, fp32Flops: 104.8 * T, bandwidth: 1792 * G, memoryBytes: 32 * G },
    ...{ processors: 170, l2Bytes: 96 * MiB, linkBandwidth: 128 * G },
    source: 'NVIDIA RTX Blackwell white paper',
  },
} as const satisfies Record<string, Gpu>;

/** Name of a GPU in {@link gpus}. */
export type GpuName = keyof typeof gpus;
