import { describe, expect, it } from 'vitest';
import { Graph, type Value } from '../../src/graph/graph.js';
import { verify } from '../../src/graph/verify.js';
import { adamw } from '../../src/ops/adamw.js';
import { defineOp } from '../../src/ops/define-op.js';
import { add, exp, multiply, negate, square, tanh } from '../../src/ops/elementwise.js';
import { elementwiseCall, opcodes } from '../../src/ops/elementwise-expression.js';
import { linearCrossEntropy } from '../../src/ops/linear-cross-entropy.js';
import { sum } from '../../src/ops/reduce.js';
import { rmsNorm } from '../../src/ops/rms-norm.js';
import { fill } from '../../src/ops/sources.js';
import { compile } from '../../src/runtime/compile.js';
import { type Plan, plan } from '../../src/runtime/plan.js';
import { expectHadalError, testDevice } from '../support/op-case.js';

const ops = ({ instructions }: Plan) => instructions.map(({ op }) => op);

/** Runs a graph on given slots; returns what they and the outputs hold. */
async function run(
  graph: Graph,
  slots: Record<string, number[]>,
  inputs: Record<string, Float32Array | Int32Array> = {},
): Promise<Record<string, number[]>> {
  verify(graph);
  const device = testDevice();
  const program = device.load(plan(graph, device.target));
  const tensors = Object.fromEntries(
    program.slots.map(({ name, shape, dtype }) => [name, device.allocate(shape, dtype)]),
  );
  for (const [name, data] of Object.entries(slots)) await tensors[name]?.write(Float32Array.from(data));
  await device.run([{ program, slots: tensors, inputs }]);
  const read = Object.entries(tensors).map(async ([name, tensor]) => {
    using held = tensor;
    return [name, Array.from(await held.toFloat32())] as const;
  });
  return Object.fromEntries(await Promise.all(read));
}

/** A graph over fp32 [2] slots. */
function onSlots(names: string[], build: (graph: Graph, ...slots: Value[]) => void): Graph {
  const graph = new Graph();
  build(graph, ...names.map((name) => graph.slot(name, [2], 'fp32')));
  return graph;
}

describe('slots', () => {
  it('are updated in place, by one instruction, where nobody else reads them', () => {
    const graph = onSlots(['a'], (g, a) => g.update('a', negate(a as Value)));
    expect(ops(plan(graph, 1))).toEqual(['negate']);
    expect(plan(graph, 1).arenaBytes).toBe(0);
  });

  it('swap', async () => {
    const graph = onSlots(['a', 'b'], (g, a, b) => {
      g.update('a', b as Value);
      g.update('b', a as Value);
    });
    expect(await run(graph, { a: [1, 2], b: [3, 4] })).toEqual({ a: [3, 4], b: [1, 2] });
  });

  it('take another slot as it was, also where that one is updated', async () => {
    const graph = onSlots(['a', 'b'], (g, a, b) => {
      g.update('a', b as Value);
      g.update('b', add(a as Value, b as Value));
    });
    expect(await run(graph, { a: [1, 2], b: [3, 4] })).toEqual({ a: [3, 4], b: [4, 6] });
  });

  it('keep their old content for those who read it later', async () => {
    const graph = onSlots(['a'], (g, a) => {
      const next = multiply(a as Value, 10);
      g.update('a', next);
      g.output('sum', add(next, a as Value));
      g.output('next', next);
    });
    expect(await run(graph, { a: [1, 2] })).toEqual({ a: [10, 20], sum: [11, 22], next: [10, 20] });
  });

  it('are outputs as they stand without a copy', async () => {
    const graph = onSlots(['a'], (g, a) => g.output('a', a as Value));
    const planned = plan(graph, 1);
    expect([ops(planned), planned.slots.length, planned.outputs.length]).toEqual([[], 1, 1]);
  });

  it('two of them take the same value', async () => {
    const graph = onSlots(['a', 'b'], (g, a) => {
      const next = negate(a as Value);
      g.update('a', next);
      g.update('b', next);
    });
    expect(await run(graph, { a: [1, 2], b: [0, 0] })).toEqual({ a: [-1, -2], b: [-1, -2] });
  });
});

describe('predicated updates', () => {
  const cases: Record<string, (g: Graph, a: Value, b: Value) => void> = {
    'of a slot in place': (g, a, b) => g.update('a', add(a, b)),
    'that name the slot second': (g, a, b) => g.update('a', add(b, a)),
    'that do not read the slot': (g, _, b) => g.update('a', add(square(b), 1)),
    'of several nodes': (g, a, b) => g.update('a', multiply(add(a, b), add(b, 2))),
    'of a slot that is read afterwards': (g, a, b) => g.update('a', add(a, b)),
    'of two slots with one value': (g, a, b) => {
      const value = add(a, b);
      g.update('a', value);
      g.update('b', value);
    },
    'that swap': (g, a, b) => {
      g.update('a', multiply(b, 1));
      g.update('b', multiply(a, 1));
    },
  };
  for (const [name, body] of Object.entries(cases)) {
    it(`${name} happen or leave everything as it was`, async () => {
      const graph = () =>
        onSlots(['a', 'b'], (g, a, b) => {
          g.predicated(g.input('flag', [1], 'int32'), () => body(g, a as Value, b as Value));
          g.output('after', add(a as Value, 100));
        });
      const before = { a: [1, 2], b: [3, 4] };
      const kept = await run(graph(), before, { flag: Int32Array.of(0) });
      expect(kept).toEqual({ ...before, after: [101, 102] });
      const done = await run(graph(), before, { flag: Int32Array.of(1) });
      const plain = onSlots(['a', 'b'], (g, a, b) => {
        body(g, a as Value, b as Value);
        g.output('after', add(a as Value, 100));
      });
      expect(done).toEqual(await run(plain, before));
      expect(done.a).not.toEqual(before.a);
    });
  }

  it('an operand that ends in the update is not overwritten before it is read', async () => {
    const graph = onSlots(['a', 'b'], (g, a, b) => {
      const temporary = exp(b as Value);
      g.predicated(g.input('flag', [1], 'int32'), () => g.update('a', multiply(a as Value, temporary)));
      g.output('old', negate(a as Value));
    });
    const { a } = await run(graph, { a: [2, 3], b: [0, 0] }, { flag: Int32Array.of(1) });
    expect(a).toEqual([2, 3]);
  });
});

describe('queues', () => {
  it('may still read a slot when its update is ready', async () => {
    const size = 1 << 20;
    const graph = new Graph();
    const x = graph.slot('x', [size], 'fp32');
    graph.output(
      'y',
      graph.onQueue('copy', () => tanh(x)),
    );
    graph.update('x', fill(graph, [size], 0));
    const { x: after, y } = await run(graph, { x: new Array<number>(size).fill(30) });
    expect([after?.every((value) => value === 0), y?.every((value) => value === 1)]).toEqual([true, true]);
  });
});

describe('memory', () => {
  it('is not taken over by an op that reads it in another place as well', async () => {
    // x + xᵀ, which may be written over x only where nothing reads xᵀ.
    const steps = [{ input: 0 }, { input: 1 }, { op: opcodes.add }];
    const walks = [
      { strides: [64, 1], offset: 0 },
      { strides: [1, 64], offset: 0 },
    ];
    const symmetric = defineOp<object, [x: Value, transposed: Value], [Value]>({
      name: 'symmetric',
      inPlace: [[0, 0]],
      infer: ([x]) => [{ shape: x.shape, dtype: x.dtype }],
      kernel: (inputs, [y]) => elementwiseCall(y, inputs, steps, walks),
    });
    const graph = new Graph();
    const numbers = Float32Array.from({ length: 64 * 64 }, (_, i) => (i * 37) % 101);
    const x = negate(graph.input('x', [64, 64], 'fp32'));
    graph.output('y', negate(symmetric.apply([x, x], {})[0]));
    const { y } = await run(graph, {}, { x: numbers });
    expect(
      y?.every((value, i) => value === (numbers[i] as number) + (numbers[(i % 64) * 64 + (i >> 6)] as number)),
    ).toBe(true);
  });

  it('of a chain is two blocks, or one where ops work in place', () => {
    const chain = (op: (x: Value) => Value) => {
      const graph = new Graph();
      let x = graph.input('x', [1024], 'fp32');
      for (let i = 0; i < 10; i++) x = op(x);
      graph.output('y', x);
      return plan(graph, 1).arenaBytes;
    };
    expect(chain(negate)).toBe(4096);
    const weighted = (x: Value) => rmsNorm(x, x.node.graph.input('w', [1024], 'fp32'), 1e-6);
    // rstd has a block of its own.
    expect(chain(weighted)).toBe(2 * 4096 + 64);
  });

  it('is known beforehand: the arena is as large as planned, workspaces included', async () => {
    const graph = new Graph();
    graph.output('y', rmsNorm(graph.input('x', [64, 128], 'fp32'), graph.input('w', [128], 'fp32'), 1e-6));
    const device = testDevice();
    const planned = plan(graph, device.target);
    expect(device.load(planned).native.arenaBytes).toBe(planned.arenaBytes);
    expect(planned.workspaceBytes).toBeLessThanOrEqual(planned.arenaBytes);
  });

  it('of an output that nobody reads and the kernel can do without is none', () => {
    const graph = new Graph();
    const [hidden, weight] = [graph.input('h', [64, 8], 'fp32'), graph.input('w', [99, 8], 'fp32')];
    const { loss } = linearCrossEntropy(hidden, weight, graph.input('labels', [64], 'int32'), fill(graph, [1], 1));
    graph.output('loss', loss);
    // Neither gradients nor the losses of rows: the scale and a workspace.
    expect(plan(graph, 1).arenaBytes).toBe(plan(graph, 1).workspaceBytes + 64);
  });

  it('tells what it holds where it is fullest', () => {
    const graph = new Graph();
    const [x, w] = [graph.input('x', [64, 128], 'fp32'), graph.slot('w', [128], 'fp32')];
    const gradient = sum(negate(x), [0]);
    graph.update('w', add(w, gradient));
    const { arenaBytes, workspaceBytes, atPeak } = plan(graph, 2);
    const workspace = Math.ceil(workspaceBytes / 64) * 64;
    expect(workspace).toBeGreaterThan(0);
    expect(atPeak).toEqual({ activations: 64 * 128 * 4, gradients: 512, workspace });
    expect(arenaBytes).toBe(64 * 128 * 4 + 512 + workspace);
  });

  it('holds a constant once', () => {
    const graph = new Graph();
    const table = Float32Array.from({ length: 256 }, (_, i) => i);
    const twice = add(graph.constant(table, [256]), graph.constant(table, [256]));
    graph.output('y', twice);
    expect(plan(graph, 1).constants.byteLength).toBe(1024);
  });
});

describe('a plan', () => {
  const build = () => {
    const graph = new Graph();
    const [p, m, v] = ['p', 'm', 'v'].map((name) => graph.slot(name, [64], 'fp32')) as [Value, Value, Value];
    const one = graph.constant(Float32Array.of(1), [1]);
    const numbers = { lr: graph.input('lr', [1], 'fp32'), gradScale: one, correction1: one, correction2: one };
    const tensor = { param: p, grad: exp(p), m, v, weightDecay: 0 };
    const [next] = adamw([tensor], numbers, { beta1: 0.9, beta2: 0.99, eps: 1e-8 });
    for (const [name, value] of Object.entries({ p: next?.param, m: next?.m, v: next?.v })) {
      graph.update(name, value as Value);
    }
    return graph;
  };

  it('of the same graph is the same, word by word', () => {
    const [one, two] = [compile(build(), 2), compile(build(), 2)];
    expect(one).toEqual(two);
  });

  it('updates parameters and moments where they lie', () => {
    expect(ops(compile(build(), 2))).toEqual(['exp', 'adamw']);
  });

  it('is for a number of threads', () => {
    const device = testDevice();
    expectHadalError(
      () => device.load(plan(build(), device.threads + 1)),
      'HADAL_ERR_DEVICE',
      /expected a plan for 2 threads of cpu, got one for 3 of cpu/,
    );
  });
});
