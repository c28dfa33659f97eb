import { describe, expect, it } from 'vitest';
import { Graph, type Value } from '../../src/graph/graph.js';
import { verify } from '../../src/graph/verify.js';
import { allReduce } from '../../src/ops/collectives.js';
import { add, exp, multiply } from '../../src/ops/elementwise.js';
import { joinCollectives } from '../../src/passes/join-collectives.js';

const ranks = { axis: 'dp', size: 2 } as const;
const sum = { ...ranks, op: 'sum', wire: 'fp32' } as const;

/** A backward pass of `count` gradients of 64 bytes, one after the other, each reduced when all are there. */
function traced(count: number, prepare: (value: Value) => Value = (value) => value): Graph {
  const graph = new Graph();
  let x = graph.input('x', [16], 'fp32');
  const gradients = graph.differentiating(() =>
    Array.from({ length: count }, () => {
      x = exp(x);
      return x;
    }),
  );
  for (const [i, value] of allReduce(gradients.map(prepare), sum).entries()) graph.output(`y${i}`, exp(value));
  return graph;
}

/** What runs when: a letter an instruction, collectives with the number of their tensors. */
const order = (graph: Graph) =>
  graph.nodes
    .filter(({ op }) => !op.isSource)
    .map(({ op, inputs, isBackward }) =>
      op.join ? `R${inputs.length}` : isBackward ? 'b' : op.name === 'exp' ? 'e' : 'p',
    )
    .join(' ');

const joined = (graph: Graph, bucketBytes: number) => {
  const made = joinCollectives(graph, bucketBytes);
  verify(made);
  return order(made);
};

describe('collectives', () => {
  it('are made as soon as a bucket is full', () => {
    expect(order(traced(4))).toBe('b b b b R1 R1 R1 R1 e e e e');
    expect(joined(traced(4), 128)).toBe('b b R2 b b R2 e e e e');
    expect(joined(traced(5), 128)).toBe('b b R2 b b R2 b e e e e R1 e');
    expect(joined(traced(3), 1)).toBe('b R1 b R1 b R1 e e e');
  });

  it('are one call behind the backward pass where the bucket has room for all, of at most 64 tensors', () => {
    expect(joined(traced(4), Number.POSITIVE_INFINITY)).toBe('b b b b R4 e e e e');
    const made = joined(traced(70), Number.POSITIVE_INFINITY);
    expect(made).toMatch(/^(b ){65}R64 (b ){5}(e ){64}R6( e){6}$/);
  });

  it('pull what prepares their tensors forward', () => {
    expect(
      joined(
        traced(4, (value) => multiply(value, 2)),
        128,
      ),
    ).toBe('b p b p R2 b p b p R2 e e e e');
  });

  it('of a second stage wait until a call of the next bucket is on its way', () => {
    const graph = traced(4, (value) => add(allReduce([value], sum)[0] as Value, 1));
    expect(joined(graph, 64)).toBe('b R1 b R1 p R1 b R1 p R1 b R1 p R1 p R1 e e e e');
  });

  it('that differ in what they do, or are urgent, stay apart', () => {
    const graph = new Graph();
    const [a, b, c, d] = ['a', 'b', 'c', 'd'].map((name) => graph.input(name, [16], 'fp32')) as Value[];
    const made = [
      ...allReduce([a!, b!], sum),
      ...allReduce([c!], { ...sum, wire: 'bf16' }),
      ...allReduce([d!], { ...sum, isUrgent: true }),
    ];
    for (const [i, value] of made.entries()) graph.output(`y${i}`, exp(value));
    expect(joined(graph, Number.POSITIVE_INFINITY)).toBe('R1 R2 e e R1 e e');
  });

  it('are left as they are, node for node, where there are none', () => {
    const graph = new Graph();
    graph.output('y', exp(graph.input('x', [2], 'fp32')));
    expect(joinCollectives(graph, 1)).toBe(graph);
  });
});
