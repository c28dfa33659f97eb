// Prints the processor time of a step that is run again and again with pauses, in this thread or, with `worker`, in one
// that is the first to load the native code.
import { isMainThread, Worker } from 'node:worker_threads';

if (isMainThread && process.argv[2] === 'worker') {
  new Worker(new URL(import.meta.url));
} else {
  const { calls, openModel } = await import('./ending/works.mjs');
  const model = openModel();
  await calls.forward(model);
  const begin = process.cpuUsage();
  for (let i = 0; i < 20; i++) {
    await calls.forward(model);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  const { user, system } = process.cpuUsage(begin);
  process.stdout.write(`${(user + system) / 1000}\n`);
  model.dispose();
}
