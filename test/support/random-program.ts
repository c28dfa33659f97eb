// Random programs over exact fp32 arithmetic, and what they compute, evaluated in JavaScript as they are traced. Operands are whole numbers, small enough for every intermediate result to be exact, whatever a pass fuses.
import { gradients } from '../../src/autodiff/gradients.js';
import { Graph, type Queue, type Value } from '../../src/graph/graph.js';
import { add, cast, maximum, multiply, negate, sign, stopGradient, subtract } from '../../src/ops/elementwise.js';
import { matmul } from '../../src/ops/matmul.js';
import { sum } from '../../src/ops/reduce.js';
import { rmsNorm } from '../../src/ops/rms-norm.js';
import { bound, reshape, slice, transpose } from '../../src/ops/shape.js';
import type { Rng } from './rng.js';

interface Known {
  value: Value;
  data: Float32Array;
}

/** A program, what it is run on, and what must come out. */
export interface RandomProgram {
  graph: Graph;
  slots: Map<string, Float32Array>;
  inputs: Record<string, Float32Array | Int32Array>;
  /** Contents of slots and outputs after one run. */
  expected: Map<string, Float32Array>;
  /** Every value that is always computed, for the naive plan. */
  values: Value[];
}

const map = (f: (a: number, b: number) => number, a: Float32Array, b: Float32Array = a) =>
  Float32Array.from(a, (x, i) => f(x, b[i % b.length] as number));

/** `rows` · 4 elements a tensor, `nodes` ops, on several queues when `isAsync`. */
export function randomProgram(rng: Rng, { rows = 2, nodes = 14, isAsync = false } = {}): RandomProgram {
  const shape = [rows, 4];
  const graph = new Graph();
  const numbers = () => Float32Array.from({ length: rows * 4 }, () => rng.integer(9) - 4);
  const names = ['a', 'b', 'c'];
  const slots = new Map(names.map((name) => [name, numbers()]));
  const inUse = 1 + rng.integer(rows);
  const inputs: RandomProgram['inputs'] = {
    x: numbers(),
    flag: Int32Array.of(rng.integer(2)),
    inUse: Int32Array.of(inUse),
    weight: Float32Array.from({ length: 16 }, () => rng.integer(3) - 1),
  };
  const known: Known[] = [...slots].map(([name, data]) => ({ value: graph.slot(name, shape, 'fp32'), data }));
  known.push({ value: graph.input('x', shape, 'fp32'), data: inputs.x as Float32Array });
  known.push({ value: graph.constant(numbers(), shape), data: new Float32Array() });
  const constant = known.at(-1) as Known;
  constant.data = constant.value.node.attrs.data as Float32Array;
  const flag = graph.input('flag', [1], 'int32');
  const extent = graph.input('inUse', [1], 'int32');
  const weight = graph.input('weight', [4, 4], 'fp32');
  const ones = graph.constant(new Float32Array(4).fill(1), [4]);

  const pick = (list: readonly Known[]) => list[rng.integer(list.length)] as Known;
  // Recent values more often, so that chains and in-place reuse come about.
  const recent = (list: readonly Known[]) => pick(rng.integer(2) === 0 ? list : list.slice(-4));
  const small = (list: readonly Known[], most: number) => {
    const known = recent(list);
    return known.data.every((x) => Math.abs(x) <= most) ? known : constant;
  };
  // A column's sum of products and another term is below 8 · rows times this: fp32 holds it.
  const operand = (list: readonly Known[]) => small(list, 2 ** 21 / rows);
  const makers: ((list: readonly Known[]) => Known)[] = [
    (list) => binary(add, (a, b) => a + b, operand(list), operand(list)),
    (list) => binary(subtract, (a, b) => a - b, operand(list), operand(list)),
    (list) => binary(maximum, Math.max, operand(list), operand(list)),
    (list) => unary(negate, (a) => -a, operand(list)),
    (list) => unary(stopGradient, (a) => a, operand(list)),
    (list) =>
      unary(
        (x) => reshape(reshape(x, [rows * 4]), shape),
        (a) => a,
        operand(list),
      ),
    (list) => {
      const { value, data } = operand(list);
      const turned = Float32Array.from(data, (_, i) => data[(i % rows) * 4 + Math.floor(i / rows)] as number);
      return { value: reshape(transpose(value, [1, 0]), shape), data: turned };
    },
    (list) => {
      // Column sums, broadcast back by an addition.
      const [{ value, data }, other] = [operand(list), operand(list)];
      const sums = new Float32Array(4);
      for (const [i, x] of data.entries()) sums[i % 4] = (sums[i % 4] as number) + x;
      return { value: add(other.value, sum(value, [0], true)), data: map((a, b) => a + b, other.data, sums) };
    },
  ];
  const product = ({ value, data }: Known, dtype: 'fp32' | 'bf16'): Known => {
    const made = matmul(cast(value, dtype), cast(weight, dtype), { transposeB: true });
    return { value: cast(made, 'fp32'), data: timesTransposed(data, inputs.weight as Float32Array) };
  };
  const sumOf = (a: Known, b: Known) => (rng.integer(2) === 0 ? plus(a, b) : plus(b, a));
  makers.push(
    // 4 · 64 is what bf16 still holds.
    (list) => sumOf(product(small(list, 64), 'bf16'), operand(list)),
    (list) => sumOf(product(operand(list), 'fp32'), operand(list)),
    // A residual, and the signs of its normalisation.
    (list) => {
      const total = plus(operand(list), operand(list));
      const signs = unary((x) => sign(rmsNorm(x, ones, 1e-6)), Math.sign, total);
      return sumOf(total, signs);
    },
    // The gradient of slices that touch, overlap or leave a gap: their factors, column by column.
    (list) => {
      const [{ value: x }, { value: y, data }] = [operand(list), operand(list)];
      const cut = 1 + rng.integer(3);
      const ranges = [[0, Math.min(4, cut + rng.integer(2))] as const, [cut, 4] as const];
      if (rng.integer(4) === 0) ranges.pop();
      const source = graph.alias(x);
      const parts = ranges.map(([start, end]) =>
        sum(multiply(slice(source, 1, start, end), stopGradient(slice(y, 1, start, end))), [0, 1], true),
      );
      const loss = reshape(
        parts.reduce((a, b) => add(a, b)),
        [1],
      );
      const covered = (column: number) => ranges.filter(([start, end]) => column >= start && column < end).length;
      return {
        value: gradients(loss, [source])[0] as Value,
        data: data.map((value, i) => value * covered(i % 4)),
      };
    },
    // Column sums of the rows in use, of what is computed of them only.
    (list) => {
      const [a, b, other] = [operand(list), operand(list), operand(list)];
      const of = (known: Known) => ({ ...known, value: bound(known.value, extent) });
      const total = sumOf(product(of(a), 'fp32'), of(b));
      const sums = Float32Array.from([0, 1, 2, 3], (column) => {
        let found = 0;
        for (let row = 0; row < inUse; row++) found += total.data[4 * row + column] as number;
        return found;
      });
      return { value: add(other.value, sum(total.value, [0], true)), data: map((a, b) => a + b, other.data, sums) };
    },
  );
  const queues: Queue[] = isAsync ? ['compute', 'compute', 'copy', 'communication'] : ['compute'];
  const make = (list: readonly Known[]) =>
    graph.onQueue(queues[rng.integer(queues.length)] as Queue, () =>
      (makers[rng.integer(makers.length)] as (typeof makers)[0])(list),
    );
  for (let i = 0; i < nodes; i++) known.push(make(known));

  const expected = new Map<string, Float32Array>(slots);
  const always = [...known];
  // One slot is updated under a predicate, from values made within and before it.
  const skippable = names[rng.integer(names.length)] as string;
  graph.predicated(flag, () => {
    const inner = [...always.slice(-3), make(always), make(always)];
    const updated = make(inner.slice(-2));
    graph.update(skippable, updated.value);
    if ((inputs.flag as Int32Array)[0] !== 0) expected.set(skippable, updated.data);
  });
  for (const name of names.filter((other) => other !== skippable)) {
    if (rng.integer(4) === 0) continue;
    const { value, data } = rng.integer(3) === 0 ? pick(always.slice(0, 3)) : operand(always);
    graph.update(name, value);
    expected.set(name, data);
  }
  for (let i = rng.integer(3); i >= 0; i--) {
    const { value, data } = operand(always);
    graph.output(`out${i}`, value);
    expected.set(`out${i}`, data);
  }
  return { graph, slots, inputs, expected, values: always.map(({ value }) => value) };
}

/** Rows of four times the transpose of a 4 × 4 matrix. */
function timesTransposed(data: Float32Array, weight: Float32Array): Float32Array {
  return data.map((_, i) => {
    const row = i - (i % 4);
    return [0, 1, 2, 3].reduce(
      (total, k) => total + (data[row + k] as number) * (weight[4 * (i % 4) + k] as number),
      0,
    );
  });
}

const plus = (a: Known, b: Known) => binary(add, (x, y) => x + y, a, b);

function unary(op: (x: Value) => Value, f: (x: number) => number, { value, data }: Known): Known {
  return { value: op(value), data: map(f, data) };
}

function binary(op: (a: Value, b: Value) => Value, f: (a: number, b: number) => number, a: Known, b: Known): Known {
  return { value: op(a.value, b.value), data: map(f, a.data, b.data) };
}
