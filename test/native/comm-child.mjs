// One rank of a group over Gloo in a process of its own: comm-ending.test.ts says what it does. It sums without end, and
// tells why that ended.
import { openProcessGroup } from '../../dist/dist/process-group.js';
import { Graph } from '../../dist/graph/graph.js';
import { allReduce } from '../../dist/ops/collectives.js';
import { compile } from '../../dist/runtime/compile.js';
import { openDevice } from '../../dist/runtime/device.js';

const [rank, size, timeout, sums] = process.argv.slice(2).map(Number);
const told = new Promise((resolve) => process.once('message', (bytes) => resolve(bytes)));
const group = await openProcessGroup({
  backend: 'gloo',
  rank,
  size,
  timeout,
  async exchange(address) {
    process.send({ address: [...address] });
    return (await told).map((bytes) => Uint8Array.from(bytes));
  },
});
const device = openDevice('cpu', { threads: 1 });
device.setGroup('dp', group);
const count = 1 << 20;
const graph = new Graph();
graph.output('y', allReduce([graph.input('x', [count], 'fp32')], { axis: 'dp', size, op: 'sum', wire: 'fp32' })[0]);
const program = device.load(compile(graph, 1));
const y = device.allocate([count], 'fp32');
const x = new Float32Array(count);
process.on('message', ({ exit }) => process.exit(exit));
try {
  for (let i = 0; i < sums; i++) {
    await device.run([{ program, slots: { y }, inputs: { x } }]);
    if (i === 0) process.send({ isSumming: true });
  }
} catch (error) {
  process.send({ code: error.code, message: error.message });
}
