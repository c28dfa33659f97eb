import { describe, expect, it } from 'vitest';
import { Graph, type Value } from '../../src/graph/graph.js';
import { verify } from '../../src/graph/verify.js';
import { add, cast, exp, maximum, multiply, negate, square, tanh, where } from '../../src/ops/elementwise.js';
import { expertOrder, permute } from '../../src/ops/permute.js';
import { sum } from '../../src/ops/reduce.js';
import { reshape } from '../../src/ops/shape.js';
import { fuseElementwise } from '../../src/passes/fuse-elementwise.js';
import { prune } from '../../src/passes/prune.js';
import { runGraph } from '../support/op-case.js';
import { Rng } from '../support/rng.js';

/** Names of what computes, after pruning and fusion. */
function fused(build: (graph: Graph, x: Value) => void): string[] {
  const graph = new Graph();
  build(graph, graph.input('x', [4, 6], 'fp32'));
  const made = fuseElementwise(prune(graph));
  verify(made);
  return made.nodes.filter(({ op }) => !op.isSource && !op.isView).map(({ op }) => op.name);
}

const input = (graph: Graph, i: number) => graph.input(`x${i}`, [4, 6], 'fp32');

describe('chains and trees', () => {
  it('become one expression', () => {
    expect(fused((g, x) => g.output('y', exp(multiply(add(x, 1), negate(square(x))))))).toEqual(['fused-elementwise']);
    expect(fused((g, x) => g.output('y', exp(cast(add(x, 1), 'bf16'))))).toEqual(['fused-elementwise', 'exp']);
    expect(fused((g, x) => g.output('y', cast(add(x, 1), 'bf16')))).toEqual(['fused-elementwise']);
  });

  it('round only at their end, and where a cast says so', () => {
    const h = (g: Graph) => g.input('h', [4, 6], 'bf16');
    expect(fused((g) => g.output('y', exp(square(h(g)))))).toEqual(['fused-elementwise']);
    expect(fused((g) => g.output('y', exp(cast(cast(h(g), 'fp32'), 'bf16'))))).toEqual(['fused-elementwise', 'exp']);
  });

  it('of one op stay what they are', () => {
    expect(fused((g, x) => g.output('y', exp(x)))).toEqual(['exp']);
  });

  it('end at a value that others read, or that leaves the graph', () => {
    expect(fused((g, x) => g.output('y', add(exp(x), sum(exp(x), [0]))))).toEqual([
      'exp',
      'reduce',
      'fused-elementwise',
    ]);
    expect(
      fused((g, x) => {
        const e = exp(x);
        g.output('y', multiply(e, square(e)));
      }),
    ).toEqual(['exp', 'fused-elementwise']);
    expect(
      fused((g, x) => {
        const e = exp(x);
        g.output('e', e);
        g.output('y', square(e));
      }),
    ).toEqual(['exp', 'square']);
    expect(fused((g, x) => g.output('y', multiply(...(Array(2).fill(exp(x)) as [Value, Value]))))).toEqual([
      'exp',
      'multiply',
    ]);
  });

  it('take in no value that is broadcast, reshaped, or of another dtype', () => {
    expect(fused((g, x) => g.output('y', add(x, exp(g.input('row', [6], 'fp32')))))).toEqual(['exp', 'add']);
    expect(fused((g, x) => g.output('y', exp(reshape(square(x), [24]))))).toEqual(['square', 'exp']);
    expect(fused((g) => g.output('y', add(negate(g.input('i', [4], 'int32')), g.input('j', [4], 'int32'))))).toEqual([
      'negate',
      'add',
    ]);
  });

  it('stay within their predicate and their queue', () => {
    const skipped = fused((g, x) => {
      const slot = g.slot('s', [4, 6], 'fp32');
      g.predicated(g.input('flag', [1], 'int32'), () => g.update('s', add(exp(square(x)), slot)));
    });
    expect(skipped).toEqual(['square', 'exp', 'add']);
    expect(fused((g, x) => g.output('y', exp(g.onQueue('copy', () => square(x)))))).toEqual(['square', 'exp']);
    expect(
      fused((g, x) =>
        g.output(
          'y',
          g.onQueue('copy', () => exp(square(x))),
        ),
      ),
    ).toEqual(['fused-elementwise']);
  });
});

describe('limits', () => {
  it('eight tensors', () => {
    const total = (n: number) => (g: Graph) =>
      g.output(
        'y',
        Array.from({ length: n }, (_, i) => input(g, i)).reduce((a, b) => add(a, b)),
      );
    expect(fused(total(8))).toEqual(['fused-elementwise']);
    expect(fused(total(9))).toEqual(['fused-elementwise', 'add']);
    expect(fused(total(15))).toEqual(['fused-elementwise', 'fused-elementwise']);
  });

  it('a stack of eight', () => {
    // Leaning right: every operand waits on the stack.
    const right = (n: number) => (g: Graph, x: Value) => {
      let y: Value = add(x, 1);
      for (let i = 2; i < n; i++) y = add(x, y);
      g.output('y', y);
    };
    expect(fused(right(8))).toEqual(['fused-elementwise']);
    expect(fused(right(9))).toEqual(['fused-elementwise', 'add']);
  });

  it('sixty-four steps and sixteen constants', () => {
    const long = (n: number) => (g: Graph, x: Value) => {
      let y = x;
      for (let i = 0; i < n; i++) y = tanh(y);
      g.output('y', y);
    };
    expect(fused(long(63))).toEqual(['fused-elementwise']);
    expect(fused(long(64))).toEqual(['fused-elementwise', 'tanh']);
    const numbers = (n: number) => (g: Graph, x: Value) => {
      let y = x;
      for (let i = 0; i < n; i++) y = add(y, i);
      g.output('y', y);
    };
    expect(fused(numbers(16))).toEqual(['fused-elementwise']);
    expect(fused(numbers(17))).toEqual(['fused-elementwise', 'add']);
  });
});

describe('extents', () => {
  it('go with the expression', () => {
    const graph = new Graph();
    const order = expertOrder(graph.input('experts', [4, 2], 'int32'), { experts: 3 });
    const rows = permute(graph.input('tokens', [4, 8], 'fp32'), order);
    graph.output('y', exp(negate(multiply(rows, 2))));
    const made = fuseElementwise(graph);
    verify(made);
    const y = made.outputs.get('y') as Value;
    expect(y.node.op.name).toBe('fused-elementwise');
    expect(y.extent).toBe(y.node.inputs[0]?.extent);
    expect(y.extent).not.toBeNull();
  });

  it('of an operand of lower rank do not', () => {
    const graph = new Graph();
    const order = expertOrder(graph.input('experts', [4, 2], 'int32'), { experts: 3 });
    const row = sum(permute(graph.input('tokens', [4, 8], 'fp32'), order), [1]);
    expect(row.extent).not.toBeNull();
    expect(add(graph.input('x', [8, 8], 'fp32'), row).extent).toBeNull();
  });
});

it('changes no bit of the result', async () => {
  const rng = new Rng('fuse');
  const data = () => Float64Array.from({ length: 24 }, () => Math.fround(rng.normal()));
  const inputs = Object.fromEntries(
    ['a', 'b', 'c'].map((name) => [name, { shape: [4, 6], dtype: 'fp32' as const, data: data() }]),
  );
  const build = ({ a, b, c }: Record<string, Value>) => {
    const [x, y, z] = [a, b, c] as [Value, Value, Value];
    const mixed = where(maximum(x, y), exp(multiply(x, y)), add(tanh(z), multiply(x, 0.3)));
    return [cast(add(mixed, square(negate(y))), 'fp16'), multiply(mixed, sum(mixed, [1], true))];
  };
  const plain = await runGraph(inputs, build, (graph) => {
    for (const value of graph.nodes.flatMap(({ outputs }) => outputs)) graph.output(`keep${value.node.id}`, value);
    return graph;
  });
  const after = await runGraph(inputs, build);
  expect(after).toEqual(plain.slice(0, 2));
});
