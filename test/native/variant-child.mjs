// Loss and gradients of a small DeepSeek-like layer, as JSON.
import { loadAddon } from '../../dist/addon/addon.js';
import { gradients } from '../../dist/autodiff/gradients.js';
import { Graph } from '../../dist/graph/graph.js';
import { attention } from '../../dist/ops/attention.js';
import { add } from '../../dist/ops/elementwise.js';
import { linearCrossEntropy } from '../../dist/ops/linear-cross-entropy.js';
import { matmul } from '../../dist/ops/matmul.js';
import { rmsNorm } from '../../dist/ops/rms-norm.js';
import { reshape } from '../../dist/ops/shape.js';
import { fill } from '../../dist/ops/sources.js';
import { swiglu } from '../../dist/ops/swiglu.js';
import { compile } from '../../dist/runtime/compile.js';
import { openDevice } from '../../dist/runtime/device.js';

const [T, D, V] = [37, 48, 101];
const shapes = { x: [T, D], norm: [D], qkv: [D, 3 * D], gateUp: [D, 4 * D], down: [2 * D, D], head: [V, D] };
const wave = (seed, scale) => (_, i) => Math.sin(seed * 7 + i * 12.9898 + (i % 7) * seed) * scale;

const graph = new Graph();
const p = Object.fromEntries(Object.entries(shapes).map(([name, shape]) => [name, graph.input(name, shape, 'fp32')]));
const h = rmsNorm(p.x, p.norm, 1e-6);
const q = reshape(matmul(h, p.qkv), [1, T, 3, D]);
const mixed = reshape(attention(q, q, q, { causal: true, scale: 0.2 }), [T, 3 * D]);
const y = add(p.x, matmul(mixed, p.qkv, { transposeB: true }));
const z = add(y, matmul(swiglu(matmul(y, p.gateUp)), p.down));
const labels = graph.constant(
  Int32Array.from({ length: T }, (_, i) => (i * 31) % V),
  [T],
);
const { loss } = linearCrossEntropy(z, p.head, labels, fill(graph, [1], 1 / T));
const names = Object.keys(shapes);
graph.output('loss', loss);
gradients(
  loss,
  names.map((name) => p[name]),
).forEach((gradient, i) => {
  graph.output(`d${names[i]}`, gradient);
});

const device = openDevice('cpu', { threads: 2 });
const program = device.load(compile(graph, 2));
const slots = Object.fromEntries(program.outputs.map((spec) => [spec.name, device.allocate(spec.shape, spec.dtype)]));
const inputs = Object.fromEntries(
  Object.entries(shapes).map(([name, shape], n) => {
    const size = shape.reduce((a, b) => a * b, 1);
    return [name, Float32Array.from({ length: size }, wave(n + 1, name === 'x' || name === 'norm' ? 1 : 0.15))];
  }),
);
await device.run([{ program, slots, inputs }]);
const out = Object.fromEntries(
  await Promise.all(Object.entries(slots).map(async ([k, t]) => [k, [...(await t.toFloat32())]])),
);
const { loss: lossOut, ...rest } = out;
process.stdout.write(JSON.stringify({ ...loadAddon().features(), loss: lossOut[0], gradients: rest }));
