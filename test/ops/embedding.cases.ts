import { add, multiply } from '../../src/ops/elementwise.js';
import { embedding, embeddingBackward } from '../../src/ops/embedding.js';
import type { OpCase } from '../support/op-case.js';

/** Skewed towards 0, as words are: repeats, and ids that never come. */
const skewed = (V: number) => (_: unknown, i: number) => ((i * i) % 7) % V;

function lookup(ids: number[], V: number, D: number, bench = false): OpCase {
  return {
    name: `ids [${ids}] V${V} D${D}`,
    inputs: { table: { shape: [V, D] }, ids: { shape: ids, dtype: 'int32', values: skewed(V) } },
    build: ({ table, ids }) => embedding(table!, ids!),
    reference: ({ table, ids }) => [rowsOf(table!, ids!, D)],
    ...(bench && { bench }),
  };
}

const rowsOf = (table: Float64Array, ids: Float64Array, D: number) =>
  [...ids].flatMap((id) => [...table.subarray(id * D, (id + 1) * D)]);

function scatter(ids: number[], V: number, D: number, bench = false): OpCase {
  return {
    name: `backward ids [${ids}] V${V} D${D}`,
    inputs: { dy: { shape: [...ids, D] }, ids: { shape: ids, dtype: 'int32', values: skewed(V) } },
    build: ({ dy, ids }) => embeddingBackward(dy!, ids!, V),
    reference({ dy, ids }, r) {
      const table = new Float64Array(V * D);
      ids!.forEach((id, n) => {
        for (let d = 0; d < D; d++) table[id * D + d] = r(table[id * D + d]! + dy![n * D + d]!);
      });
      return [table];
    },
    ...(bench && { bench }),
  };
}

/** A table in fp32 whose rows are read, and whose gradient is summed, in another dtype: as weights of mixed precision are. */
function mixed(V: number, D: number): OpCase {
  return {
    name: `fp32 table V${V} D${D}`,
    inputs: {
      table: { shape: [V, D], dtype: 'fp32' },
      x: { shape: [9, D] },
      ids: { shape: [9], dtype: 'int32', values: skewed(V) },
    },
    build: ({ table, x, ids }) => embedding(table!, ids!, { outputDType: x!.dtype }),
    reference: ({ table, ids }) => [rowsOf(table!, ids!, D)],
    differentiable: ['table'],
  };
}

/** The two gradients of a table that is read twice: the second adds to the first. */
function tied(V: number, D: number): OpCase {
  return {
    name: `tied V${V} D${D}`,
    inputs: {
      table: { shape: [V, D] },
      dy: { shape: [9, D] },
      ids: { shape: [9], dtype: 'int32', values: skewed(V) },
    },
    build: ({ table, dy, ids }) => add(multiply(table!, 3), embeddingBackward(dy!, ids!, V)),
    reference({ table, dy, ids }, r) {
      const sums = Float64Array.from(table!, (x) => r(3 * x));
      ids!.forEach((id, n) => {
        for (let d = 0; d < D; d++) sums[id * D + d] = r(sums[id * D + d]! + dy![n * D + d]!);
      });
      return [sums];
    },
  };
}

export const cases: OpCase[] = [
  lookup([9], 5, 7),
  lookup([2, 5], 11, 16),
  lookup([], 3, 4), // one id
  lookup([0], 3, 4),
  lookup([3], 1, 33),
  scatter([9], 5, 7),
  scatter([2, 10], 11, 16),
  scatter([0], 3, 4),
  scatter([30], 1, 19),
  scatter([700], 300, 24), // more ids and rows than a block has threads
  mixed(11, 7),
  mixed(4, 64),
  tied(11, 16),
  tied(5, 33),
  lookup([2048], 8192, 512, true),
  scatter([2048], 8192, 512, true),
  scatter([1024], 50257, 768, true),
];
