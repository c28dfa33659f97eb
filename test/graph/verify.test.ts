import { describe, expect, it } from 'vitest';
import { Graph, Node, type Value } from '../../src/graph/graph.js';
import type { OpDefinition } from '../../src/graph/op.js';
import { verify } from '../../src/graph/verify.js';
import { add, negate } from '../../src/ops/elementwise.js';
import { expectHadalError } from '../support/op-case.js';

/** A graph of two nodes, to be spoilt. */
function small() {
  const graph = new Graph();
  const x = graph.slot('x', [2], 'fp32');
  const y = negate(x);
  return { graph, x, y };
}

const refused = (spoil: (g: ReturnType<typeof small>) => void, message: RegExp) => {
  const made = small();
  verify(made.graph);
  spoil(made);
  expectHadalError(() => verify(made.graph), 'HADAL_ERR_INTERNAL', message);
};

const node = (graph: Graph, id: number, inputs: Value[], types = [{ shape: [2], dtype: 'fp32' as const }]) =>
  new Node(graph, id, small().y.node.op as OpDefinition, inputs, {}, types);

describe('verify', () => {
  it('accepts what passes may leave', () => {
    const { graph, x, y } = small();
    graph.predicated(graph.input('flag', [1], 'int32'), () => graph.update('x', add(add(x, y), 1)));
    graph.output('y', y);
    expect(() => verify(graph)).not.toThrow();
  });

  it('refuses a node out of its place', () => {
    refused(({ graph }) => graph.nodes.reverse(), /another place than it says: .*negate/);
    refused(({ graph, y }) => graph.nodes.push(y.node), /another place than it says/);
    refused(({ graph }) => graph.nodes.push(node(new Graph(), 2, [])), /another place than it says/);
  });

  it('refuses an input that comes later, is gone, or is of another graph', () => {
    refused(({ graph }) => {
      const [first, second] = [node(graph, 2, []), node(graph, 3, [])];
      graph.nodes.push(node(graph, 2, [second.outputs[0] as Value]), first);
    }, /does not come before its user/);
    refused(({ graph }) => graph.nodes.push(node(graph, 2, [small().y])), /does not come before its user/);
    refused(({ graph, x }) => {
      const orphan = node(graph, 0, [x]);
      graph.nodes.push(node(graph, 2, [orphan.outputs[0] as Value]));
    }, /does not come before its user/);
    refused(({ y }) => {
      y.node.predicate = small().y;
    }, /does not come before its user/);
  });

  it('refuses types that the op does not infer', () => {
    refused(
      ({ graph, x }) => graph.nodes.push(node(graph, 2, [x], [{ shape: [3], dtype: 'fp32' }])),
      /not what the op infers/,
    );
    refused(({ graph, x }) => graph.nodes.push(node(graph, 2, [x], [])), /not what the op infers/);
  });

  it('refuses values of a predicated range outside of it', () => {
    const inRange = ({ graph, x }: ReturnType<typeof small>) => {
      const flag = graph.input('flag', [1], 'int32');
      return graph.predicated(flag, () => add(x, 1));
    };
    refused((made) => negate(inRange(made)), /used outside of it: .*negate/);
    refused((made) => made.graph.output('z', inRange(made)), /output 'z' may be skipped/);
    refused((made) => {
      const value = inRange(made);
      const other = made.graph.input('other', [1], 'int32');
      made.graph.predicated(other, () => negate(value));
    }, /used outside of it/);
  });

  it('refuses updates that do not fit, and outputs that pass for slots', () => {
    refused(({ graph }) => graph.updates.set('x', graph.input('wide', [3], 'fp32')), /update of slot 'x' does not fit/);
    refused(({ graph }) => graph.updates.set('x', small().y), /update of slot 'x' does not fit/);
    refused(({ graph, y }) => graph.updates.set('none', y), /update of slot 'none' does not fit/);
    refused(({ graph }) => graph.output('z', small().y), /output 'z' is of another graph/);
    refused(({ graph, y }) => graph.output('x', y), /output 'x' bears the name of a slot/);
    refused(({ graph, x, y }) => {
      graph.update('x', y);
      graph.output('x', x);
    }, /output 'x' bears the name of a slot/);
  });
});

describe('a graph', () => {
  it('refuses at once what cannot be meant', () => {
    const { graph, x, y } = small();
    expectHadalError(() => add(x, small().y), 'HADAL_ERR_INTERNAL', /mixes values of two graphs/);
    expectHadalError(() => graph.update('none', y), 'HADAL_ERR_INTERNAL', /slot named 'none' to update, found none/);
    expectHadalError(
      () => graph.update('x', graph.input('w', [3], 'fp32')),
      'HADAL_ERR_SHAPE',
      /'x' expected fp32 \[2\], got fp32 \[3\]/,
    );
    expectHadalError(
      () => graph.slot('x', [3], 'fp32'),
      'HADAL_ERR_INTERNAL',
      /slot 'x' declared twice with two types/,
    );
    expectHadalError(
      () => graph.constant(Float32Array.of(1), [2]),
      'HADAL_ERR_INTERNAL',
      /constant of 1 numbers for shape \[2\]/,
    );
    const flag = graph.input('flag', [1], 'int32');
    expectHadalError(
      () => graph.predicated(flag, () => graph.predicated(flag, () => x)),
      'HADAL_ERR_INTERNAL',
      /do not nest/,
    );
    expect(graph.predicated(flag, () => add(x, 1)).node.predicate).toBe(flag);
  });

  it('hands out a source once', () => {
    const { graph, x } = small();
    expect(graph.slot('x', [2], 'fp32')).toBe(x);
    expect(graph.input('in', [1], 'int32')).toBe(graph.input('in', [1], 'int32'));
  });
});
