// Twice in one process: a training run on the main thread beside one in a worker, then two on the main thread.
import assert from 'node:assert/strict';
import { Piscina } from 'piscina';
import { losses } from './work.js';

const out = process.argv[2] ?? 'runs/twice';
const pool = new Piscina({ filename: new URL('./work.js', import.meta.url).href, maxThreads: 1 });
const runs = await Promise.all([losses(`${out}/main`), pool.run(`${out}/worker`, { name: 'losses' })]);
await pool.destroy();
runs.push(...(await Promise.all([losses(`${out}/third`), losses(`${out}/fourth`)])));
assert.equal(runs[0]?.length, 5);
for (const run of runs) assert.deepEqual(run, runs[0]);
console.log('4 runs, two and two at once: equal losses');
