// Ends in the way its argument names while a step runs.
import { isMainThread, parentPort, Worker } from 'node:worker_threads';
import { beginLongStep } from './long-step.mjs';

const ways = {
  async exit() {
    await beginLongStep();
    process.exit(7);
  },
  async throw() {
    await beginLongStep();
    setImmediate(() => {
      throw new Error('uncaught on purpose');
    });
  },
  async terminate() {
    const worker = new Worker(new URL(import.meta.url), { argv: ['in-worker'] });
    await new Promise((resolve) => worker.once('message', resolve));
    await worker.terminate();
    process.stdout.write('terminated\n');
  },
  async 'in-worker'() {
    await beginLongStep();
    parentPort.postMessage('running');
  },
  async idle() {
    const { openDevice } = await import('../../../dist/runtime/device.js');
    const device = openDevice('cpu', { threads: 2 });
    const tensor = device.allocate([8], 'fp32');
    await tensor.write(new Float32Array(8));
    process.stdout.write('idle\n');
  },
  async finish() {
    // Nobody awaits the step, yet the process lives until it is done.
    const { step } = await beginLongStep();
    void step.then(() => process.stdout.write('done\n'));
  },
};
await ways[process.argv.at(-1)]();
if (!isMainThread) setInterval(() => {}, 1000);
