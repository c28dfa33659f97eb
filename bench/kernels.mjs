// Times kernels alone at the shapes of a training step of 8 × 256 tokens: `npm run bench:kernels -- [threads]`.
// Median of several calls; inputs are warm in cache as far as they fit, as within a step.
import os from 'node:os';
import { loadAddon } from '../dist/addon/addon.js';
import { openDevice } from '../dist/runtime/device.js';
import { runKernel } from '../dist/runtime/run-kernel.js';

const threads = Number(process.argv[2] ?? os.availableParallelism());
const device = openDevice('cpu', { threads });

let state = 1;
/** Numbers in [−scale, scale). */
const random = (size, scale = 1) =>
  Float32Array.from({ length: size }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    return (state / 2 ** 31) * scale;
  });
const empty = (size) => new Float32Array(size);
const one = () => Float32Array.of(1);

const [B, T, D, I, N, V] = [8, 256, 384, 1024, 6, 8192];
const R = B * T;
const plain = {
  ...{ batch: 1, transposeA: 0, addendIsRow: 0, extentDim: 0, extentUnit: 0 },
  ...{ dtypeA: 'fp32', dtypeB: 'fp32', dtypeC: 'fp32', dtypeAddend: 'fp32' },
};
const moments = { beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0.1 };
const head = D / N;

/** Name, params, buffers in the kernel's order, flops, bytes read and written. */
const calls = [
  {
    kernel: 'matmul',
    shape: `${R} × ${D} × ${I}`,
    params: { ...plain, m: R, n: I, k: D, transposeB: 1 },
    buffers: [random(R * D), random(I * D), null, null, empty(R * I)],
    flops: 2 * R * D * I,
    bytes: 4 * (R * D + I * D + R * I),
  },
  {
    kernel: 'attention',
    shape: `${B} × ${T}, ${N} heads of ${head}`,
    params: {
      ...{ batch: B, queries: T, keys: T, heads: N, kvHeads: N, keyDim: head, valueDim: head },
      ...{ causal: 1, scale: head ** -0.5, dtype: 'fp32' },
    },
    buffers: [random(R * D), random(R * D), random(R * D), null, null, empty(R * D), empty(R * N)],
    flops: 2 * R * T * D, // two products, the causal half of each
    bytes: 4 * 4 * R * D,
  },
  {
    kernel: 'rms-norm',
    shape: `${R} × ${D}`,
    params: { rows: R, dim: D, eps: 1e-6, dtype: 'fp32', weightDtype: 'fp32' },
    buffers: [random(R * D), random(D), empty(R * D), empty(R)],
    flops: 4 * R * D,
    bytes: 4 * 2 * R * D,
  },
  {
    kernel: 'swiglu',
    shape: `${R} × 2 · ${I}`,
    params: { entries: R, inner: 1, dim: I, dtype: 'fp32' },
    buffers: [random(R * 2 * I), null, empty(R * I)],
    flops: 10 * R * I,
    bytes: 4 * 3 * R * I,
  },
  {
    kernel: 'linear-cross-entropy',
    shape: `${R} × ${D}, ${V} words`,
    params: {
      ...{ rows: R, vocab: V, dim: D, ignoreIndex: -100, labelSmoothing: 0, zLoss: 0 },
      ...{ dtypeH: 'fp32', dtypeW: 'fp32' },
    },
    buffers: [
      ...[random(R * D), random(V * D, 0.05), Int32Array.from({ length: R }, (_, i) => (i * 131) % V), one()],
      ...[empty(1), empty(R * D), empty(V * D), empty(R)],
    ],
    flops: 6 * R * D * V,
    bytes: 4 * 2 * (R * D + V * D),
  },
  {
    kernel: 'adamw',
    shape: `${V} × ${D}`,
    params: { count: V * D, ...moments, dtype: 'fp32', gradDtype: 'fp32', momentDtype: 'fp32' },
    buffers: (() => {
      const [param, grad, m, v] = [random(V * D), random(V * D, 0.01), empty(V * D), empty(V * D)];
      return [param, grad, m, v, Float32Array.of(1e-4), one(), one(), one(), param, m, v];
    })(),
    flops: 15 * V * D,
    bytes: 4 * 7 * V * D,
  },
];

async function median({ kernel, params, buffers }) {
  const times = [];
  const end = performance.now() + 1000;
  while (times.length < 5 || (performance.now() < end && times.length < 200)) {
    times.push(await runKernel(device, kernel, params, buffers));
  }
  return times.sort((a, b) => a - b)[Math.floor(times.length / 2)];
}

const { isa, onednn } = loadAddon().features();
const load = os.loadavg()[0].toFixed(1);
console.log(`${os.cpus()[0]?.model}, ${threads} threads, ${isa}, ${onednn}, fp32; load of the machine ${load}\n`);
const row = (cells) =>
  console.log(
    cells
      .map((cell, i) => (i < 2 ? cell.padEnd(28) : cell.padStart(10)))
      .join('')
      .trimEnd(),
  );
row(['kernel', 'shape', 'ms', 'GFLOP/s', 'GB/s']);
for (const call of calls) {
  const ms = await median(call);
  row([call.kernel, call.shape, ms.toFixed(3), (call.flops / ms / 1e6).toFixed(1), (call.bytes / ms / 1e6).toFixed(1)]);
}
device.dispose();
