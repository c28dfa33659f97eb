// From one Piscina worker, and from four at once.
import assert from 'node:assert/strict';
import { Piscina } from 'piscina';
import { continuation } from './work.js';

const checkpoint = process.argv[2] ?? '';
const task = { checkpoint, prompt: 'The cat' };
const expected = await continuation(task);
for (const threads of [1, 4]) {
  const pool = new Piscina({
    filename: new URL('./work.js', import.meta.url).href,
    minThreads: threads,
    maxThreads: threads,
  });
  const texts = await Promise.all(Array.from({ length: 8 }, () => pool.run(task, { name: 'continuation' })));
  assert.deepEqual(texts, Array(8).fill(expected));
  await pool.destroy();
}
console.log('8 texts of 1 worker and 8 of 4 are equal to the main thread’s');
