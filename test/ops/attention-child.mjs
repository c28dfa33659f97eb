// Attention in bf16 and its gradients, as JSON: run by attention-tiles.test.ts for each instruction set.
import { loadAddon } from '../../dist/addon/addon.js';
import { gradients } from '../../dist/autodiff/gradients.js';
import { Graph } from '../../dist/graph/graph.js';
import { attention } from '../../dist/ops/attention.js';
import { cast, square } from '../../dist/ops/elementwise.js';
import { sum } from '../../dist/ops/reduce.js';
import { compile } from '../../dist/runtime/compile.js';
import { openDevice } from '../../dist/runtime/device.js';

const [T, H, G, D, E] = [150, 4, 2, 37, 22];
const shapes = { q: [1, T, H, D], k: [1, T, G, D], v: [1, T, G, E] };
const graph = new Graph();
const x = Object.fromEntries(
  Object.entries(shapes).map(([name, shape]) => [name, cast(graph.input(name, shape, 'fp32'), 'bf16')]),
);
const docIds = graph.constant(
  Int32Array.from({ length: T }, (_, t) => (t < 100 ? 0 : t < 140 ? 1 : -1)),
  [1, T],
);
const y = attention(x.q, x.k, x.v, { causal: true, scale: 0.2, docIds });
const loss = sum(square(cast(y, 'fp32')), [0, 1, 2, 3]);
for (const [i, value] of [y, ...gradients(loss, Object.values(x))].entries()) {
  graph.output(`out${i}`, cast(value, 'fp32'));
}

const device = openDevice('cpu', { threads: 2 });
const program = device.load(compile(graph, 2));
const slots = Object.fromEntries(program.outputs.map((spec) => [spec.name, device.allocate(spec.shape, spec.dtype)]));
const inputs = Object.fromEntries(
  Object.entries(shapes).map(([name, shape], n) => {
    const size = shape.reduce((a, b) => a * b, 1);
    return [name, Float32Array.from({ length: size }, (_, i) => Math.sin(n + i * 12.9898 + (i % 7) * n) * 1.5)];
  }),
);
await device.run([{ program, slots, inputs }]);
const outputs = await Promise.all(Object.values(slots).map(async (tensor) => [...(await tensor.toFloat32())]));
process.stdout.write(JSON.stringify({ isa: loadAddon().features().isa, outputs }));
