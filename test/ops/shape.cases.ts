import type { Value } from '../../src/graph/graph.js';
import { broadcastTo, concat, reshape, slice, transpose } from '../../src/ops/shape.js';
import type { OpCase } from '../support/op-case.js';

const sizeOf = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);

/** Index of each element along every dim. */
function* walk(shape: readonly number[]): Generator<number[]> {
  for (let i = 0; i < sizeOf(shape); i++) {
    let left = i;
    yield [...shape]
      .reverse()
      .map((dim) => {
        const index = left % dim;
        left = Math.floor(left / dim);
        return index;
      })
      .reverse();
  }
}

const at = (shape: readonly number[], index: readonly number[]) =>
  shape.reduce((offset, dim, d) => offset * dim + (index[d] as number), 0);

/** One input; element `index` of the result is element `from(index)` of it. */
function moved(
  name: string,
  shape: number[],
  build: (x: Value) => Value,
  to: number[],
  from: (index: number[]) => number[],
): OpCase {
  return {
    name: `${name} [${shape}]`,
    inputs: { x: { shape } },
    build: ({ x }) => build(x as Value),
    reference: ({ x }) => [
      Float64Array.from(walk(to), (index) => (x as Float64Array)[at(shape, from(index))] as number),
    ],
  };
}

function transposed(shape: number[], permutation: number[]): OpCase {
  const back = (index: number[]) => permutation.map((_, d) => index[permutation.indexOf(d)] as number);
  const to = permutation.map((d) => shape[d] as number);
  return moved(`transpose ${permutation} of`, shape, (x) => transpose(x, permutation), to, back);
}

function sliced(shape: number[], axis: number, start: number, end: number): OpCase {
  const to = shape.map((dim, d) => (d === axis ? end - start : dim));
  const back = (index: number[]) => index.map((i, d) => (d === axis ? i + start : i));
  return moved(`slice ${start}..${end} of dim ${axis} of`, shape, (x) => slice(x, axis, start, end), to, back);
}

function broadcast(shape: number[], to: number[]): OpCase {
  const back = (index: number[]) =>
    shape.map((dim, d) => (dim === 1 ? 0 : (index[d + to.length - shape.length] as number)));
  return moved(`broadcast to [${to}] of`, shape, (x) => broadcastTo(x, to), to, back);
}

function joined(shapes: number[][], axis: number): OpCase {
  const names = shapes.map((_, i) => `x${i}`);
  const first = shapes[0] as number[];
  const to = first.map((dim, d) =>
    d === axis ? shapes.reduce((total, shape) => total + (shape[d] as number), 0) : dim,
  );
  return {
    name: `concat of ${shapes.length}, [${first}] first, along ${axis}`,
    inputs: Object.fromEntries(shapes.map((shape, i) => [`x${i}`, { shape }])),
    build: (values) =>
      concat(
        names.map((name) => values[name] as Value),
        axis,
      ),
    reference: (inputs) => [
      Float64Array.from(walk(to), (index) => {
        let i = index[axis] as number;
        let n = 0;
        while (i >= ((shapes[n] as number[])[axis] as number)) i -= (shapes[n++] as number[])[axis] as number;
        const from = index.map((j, d) => (d === axis ? i : j));
        return (inputs[`x${n}`] as Float64Array)[at(shapes[n] as number[], from)] as number;
      }),
    ],
  };
}

export const cases: OpCase[] = [
  transposed([3, 5], [1, 0]),
  transposed([2, 3, 4], [0, 2, 1]),
  transposed([2, 3, 4], [2, 0, 1]),
  transposed([2, 3, 2, 5], [0, 2, 1, 3]),
  transposed([1, 7, 1, 3], [3, 2, 1, 0]),
  transposed([2, 1, 2, 1, 2, 3], [5, 1, 3, 0, 4, 2]),
  transposed([0, 3], [1, 0]),
  { ...transposed([130, 67], [1, 0]), differentiable: [] }, // whole tiles and what is left of both dims
  { ...transposed([3, 64, 48], [0, 2, 1]), differentiable: [] },
  transposed([3, 4, 2, 16], [0, 2, 1, 3]), // rows of whole packs
  { ...transposed([2, 33, 3, 20], [3, 2, 0, 1]), differentiable: [] },
  sliced([7], 0, 2, 5),
  sliced([4, 6], 1, 1, 6),
  sliced([4, 6], 0, 3, 4),
  sliced([2, 5, 3], 1, 0, 2),
  sliced([4, 6], 1, 3, 3),
  sliced([3, 40], 1, 8, 32),
  broadcast([], [3]),
  broadcast([5], [3, 5]),
  broadcast([3, 1], [3, 4]),
  broadcast([2, 1, 3], [2, 4, 3]),
  joined(
    [
      [2, 3],
      [2, 1],
      [2, 5],
    ],
    1,
  ),
  joined(
    [
      [2, 3],
      [0, 3],
      [4, 3],
    ],
    0,
  ),
  joined(
    [
      [3, 8],
      [3, 24],
    ],
    1,
  ),
  joined(
    [
      [2, 1, 3],
      [2, 2, 3],
    ],
    1,
  ),
  // Beyond what one kernel call takes.
  joined(
    Array.from({ length: 35 }, (_, i) => [2, 1 + (i % 3)]),
    1,
  ),
  moved(
    'reshape of',
    [4, 6],
    (x) => reshape(reshape(x, [3, -1]), [24]),
    [24],
    ([i]) => [Math.floor((i as number) / 6), (i as number) % 6],
  ),
];
