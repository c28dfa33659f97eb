// child.mjs <way> <work> <folder> <delay in ms>: ends in that way while that work goes on.
import { isMainThread, parentPort, Worker } from 'node:worker_threads';

const [way, work, folder, delayMs] = process.argv.slice(-4);
const pause = (ms = Number(delayMs)) => new Promise((resolve) => setTimeout(resolve, ms));
const print = (text) => process.stdout.write(`${text}\n`);

async function begin() {
  const { works } = await import('./works.mjs');
  return works[work](folder);
}

const throwLater = () =>
  setImmediate(() => {
    throw new Error('uncaught on purpose');
  });

const newWorker = (how) => new Worker(new URL(import.meta.url), { argv: [how, work, folder, delayMs] });

/** A worker in the midst of the work. */
async function startWorker() {
  const worker = newWorker('in-worker');
  await new Promise((resolve, reject) => {
    worker.once('message', resolve);
    worker.once('error', reject);
  });
  return worker;
}

/** After a worker has ended, this thread computes. */
async function printAlive(ending) {
  const { openDevice } = await import('../../../dist/runtime/device.js');
  const device = openDevice('cpu', { threads: 2 });
  const tensor = device.allocate([2], 'fp32');
  await tensor.write(Float32Array.of(1, 2));
  print(`${ending}, ${await tensor.toFloat32()}`);
}

const codeOf = (promise) =>
  promise.then(
    () => 'done',
    (error) => error.code ?? String(error),
  );

/** Garbage is collected while what it would like to take is in use. */
async function collect(times = 3) {
  for (let i = 0; i < times; i++) {
    globalThis.gc();
    await pause(1);
  }
}

/** A call under way whose model nobody holds any longer. */
async function callOfDropped(call, registry) {
  const { openModel } = await import('./works.mjs');
  const model = openModel();
  await call(model);
  registry.register(model, 'model');
  return { result: call(model) };
}

const ways = {
  async exit() {
    await begin();
    await pause();
    process.exit(7);
  },
  async throw() {
    await begin();
    await pause();
    throwLater();
  },
  async sigterm() {
    await begin();
    await pause();
    process.kill(process.pid, 'SIGTERM');
  },
  async terminate() {
    const worker = await startWorker();
    await pause();
    await worker.terminate();
    await printAlive('terminated');
  },
  async 'terminate-early'() {
    // While the worker loads, opens, compiles, or begins.
    const worker = newWorker('in-worker');
    await pause(50 + 10 * Number(delayMs));
    await worker.terminate();
    await printAlive('terminated');
  },
  async 'exit-in-worker'() {
    const worker = newWorker('in-worker-exit');
    const code = await new Promise((resolve) => worker.once('exit', resolve));
    await printAlive(`exit ${code}`);
  },
  async 'throw-in-worker'() {
    const worker = newWorker('in-worker-throw');
    const error = await new Promise((resolve) => worker.once('error', resolve));
    await printAlive(error.message);
  },
  async 'exit-beside-worker'() {
    await startWorker();
    await pause();
    process.exit(7);
  },
  async dispose() {
    const { pending, dispose, again } = await begin();
    const ended = codeOf(pending);
    await pause();
    await dispose();
    await dispose();
    print(`${await ended}, again: ${await codeOf(Promise.resolve().then(again))}`);
  },
  async collect() {
    const collected = [];
    const registry = new FinalizationRegistry((what) => collected.push(what));
    if (work === 'step') {
      const { beginLongStep } = await import('./long-step.mjs');
      const { step } = await beginLongStep(100);
      await collect();
      print(await codeOf(step));
    } else if (work === 'train') {
      const { beginTraining } = await import('./works.mjs');
      const event = (await beginTraining(folder)).next();
      await collect();
      print((await event).value.type);
    } else {
      const { calls } = await import('./works.mjs');
      const { result } = await callOfDropped(calls[work], registry);
      await collect();
      const value = await result;
      print(typeof value === 'number' ? `${value} tokens` : value.shape ? value.shape.join() : value.loss.toFixed(3));
      for (let i = 0; i < 100 && collected.length === 0; i++) await collect(1);
      print(`collected: ${collected}`);
    }
    await collect();
  },

  async idle() {
    const { openDevice } = await import('../../../dist/runtime/device.js');
    const device = openDevice('cpu', { threads: 2 });
    const tensor = device.allocate([8], 'fp32');
    await tensor.write(new Float32Array(8));
    print('idle');
  },
  async finish() {
    // Nobody awaits the step, yet the process lives until it is done.
    const { beginLongStep } = await import('./long-step.mjs');
    const { step } = await beginLongStep();
    void step.then(() => print('done'));
  },
  async 'two-workers'() {
    // The same run alone, and beside a worker that is ended while it works.
    const alone = await lossesOfWorker(() => {});
    const other = await startWorker();
    const beside = await lossesOfWorker((step) => {
      if (step === 5) void other.terminate();
    });
    print(`${alone.length} losses, ${alone.join() === beside.join() ? 'the same' : `${alone} and ${beside}`}`);
  },

  async 'in-worker'() {
    await begin();
    parentPort.postMessage('running');
  },
  async 'in-worker-exit'() {
    await begin();
    await pause();
    process.exit(7);
  },
  async 'in-worker-throw'() {
    await begin();
    await pause();
    throwLater();
  },
  async 'in-worker-train'() {
    const { trainRun } = await import('./works.mjs');
    for await (const { type, step, loss } of trainRun(folder, 20)) {
      if (type === 'step') parentPort.postMessage({ step, loss });
    }
  },
};

/** Losses of a short training run in a worker. */
async function lossesOfWorker(onStep) {
  const worker = newWorker('in-worker-train');
  const losses = [];
  worker.on('message', ({ step, loss }) => {
    losses.push(loss);
    onStep(step);
  });
  await new Promise((resolve, reject) => {
    worker.once('exit', resolve);
    worker.once('error', reject);
  });
  return losses;
}

await ways[way]();
if (!isMainThread && way === 'in-worker') setInterval(() => {}, 1000);
