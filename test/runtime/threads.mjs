// Runs products and norms, of two rows and of many, on so many threads, and prints what the process's threads were before
// the device was opened, after the first run and after the last: by number, the processors each may use.
import { readdirSync, readFileSync } from 'node:fs';
import { Graph } from '../../dist/graph/graph.js';
import { matmul } from '../../dist/ops/matmul.js';
import { rmsNorm } from '../../dist/ops/rms-norm.js';
import { compile } from '../../dist/runtime/compile.js';
import { openDevice } from '../../dist/runtime/device.js';

const [threads, pinThreads] = JSON.parse(process.argv[2]);

function threadsNow() {
  const status = (thread) => readFileSync(`/proc/self/task/${thread}/status`, 'utf8');
  const allowed = (thread) => /Cpus_allowed_list:\s*(.*)/.exec(status(thread))?.[1];
  return Object.fromEntries(readdirSync('/proc/self/task').map((thread) => [thread, allowed(thread)]));
}

const sizes = [
  [2, 65536],
  [2048, 64],
];
const graph = new Graph();
for (const [i, [rows, dim]] of sizes.entries()) {
  const x = rmsNorm(graph.input(`x${i}`, [rows, dim], 'fp32'), graph.input(`w${i}`, [dim], 'fp32'), 1e-6);
  graph.output(`y${i}`, matmul(x, x, { transposeB: true }));
}
const plan = compile(graph, threads);
const before = threadsNow();
const device = openDevice('cpu', { threads, pinThreads });
const program = device.load(plan);
const slots = Object.fromEntries(program.outputs.map((spec) => [spec.name, device.allocate(spec.shape, spec.dtype)]));
const inputs = Object.fromEntries(
  sizes.flatMap(([rows, dim], i) => [
    [`x${i}`, new Float32Array(rows * dim).fill(1)],
    [`w${i}`, new Float32Array(dim).fill(1)],
  ]),
);
const run = () => device.run([{ program, slots, inputs }]);
await run();
const first = threadsNow();
for (let i = 0; i < 20; i++) await run();
process.stdout.write(JSON.stringify({ before, first, last: threadsNow() }));
device.dispose();
