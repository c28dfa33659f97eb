import { add } from '../../src/ops/elementwise.js';
import { sum } from '../../src/ops/reduce.js';
import { fill } from '../../src/ops/sources.js';
import { runGraph } from './op-case.js';

/** Fills the test device's arena with NaN, so that what reads memory that nobody wrote shows. */
export async function poisonArena(elements = 1 << 16): Promise<void> {
  await runGraph({ x: { shape: [1], dtype: 'fp32', data: [1] } }, ({ x }, graph) => [
    sum(add(fill(graph, [elements], Number.NaN), x ?? 0), [0]),
  ]);
}
