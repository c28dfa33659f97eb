import { describe, expect, it } from 'vitest';
import { gradients } from '../../src/autodiff/gradients.js';
import { Graph, type Value } from '../../src/graph/graph.js';
import { attention } from '../../src/ops/attention.js';
import {
  add,
  cast,
  exp,
  multiply,
  negate,
  sigmoid,
  silu,
  square,
  stopGradient,
  subtract,
  tanh,
} from '../../src/ops/elementwise.js';
import { layerNorm } from '../../src/ops/layer-norm.js';
import { linearCrossEntropy } from '../../src/ops/linear-cross-entropy.js';
import { matmul } from '../../src/ops/matmul.js';
import { mean, sum } from '../../src/ops/reduce.js';
import { rmsNorm } from '../../src/ops/rms-norm.js';
import { reshape } from '../../src/ops/shape.js';
import { softmax } from '../../src/ops/softmax.js';
import { fill } from '../../src/ops/sources.js';
import { swiglu } from '../../src/ops/swiglu.js';
import { prune } from '../../src/passes/prune.js';
import { compare } from '../support/compare.js';
import { expectHadalError, runGraph } from '../support/op-case.js';
import { Rng } from '../support/rng.js';

const total = (x: Value) =>
  sum(
    x,
    x.shape.map((_, axis) => axis),
  );
const fp32 = (shape: number[], data: ArrayLike<number>) => ({ shape, dtype: 'fp32' as const, data });

/** Gradients of a scalar function by its first argument. */
async function gradientOf(f: (x: Value) => Value, shape: number[], data: number[]): Promise<number[]> {
  const [g] = await runGraph({ x: fp32(shape, data) }, ({ x }) => gradients(f(x as Value), [x as Value]));
  return [...(g as Float64Array)];
}

describe('gradients', () => {
  it('sum over all ways that lead to a value', async () => {
    // x² + 3x + x·x
    const f = (x: Value) => total(add(add(square(x), multiply(x, 3)), multiply(x, x)));
    expect(await gradientOf(f, [2], [1, -2])).toEqual([7, -5]);
  });

  it('by a value in the middle count every user, and flow on', async () => {
    const [dh, dx] = await runGraph({ x: fp32([2], [1, 2]) }, ({ x }) => {
      const h = multiply(x as Value, 10);
      return gradients(total(add(square(h), h)), [h, x as Value]);
    });
    expect([...(dh as Float64Array)]).toEqual([21, 41]);
    expect([...(dx as Float64Array)]).toEqual([210, 410]);
  });

  it('are summed over what was broadcast, and have the shape and dtype of their value', async () => {
    const graph = new Graph();
    const [row, column, half] = [
      graph.input('r', [3], 'fp32'),
      graph.input('c', [2, 1], 'fp32'),
      graph.input('h', [1], 'bf16'),
    ];
    const loss = total(multiply(multiply(row, column), cast(half, 'fp32')));
    expect(gradients(loss, [row, column, half]).map(({ type }) => type)).toEqual([
      'fp32 [3]',
      'fp32 [2, 1]',
      'bf16 [1]',
    ]);
    const values = { r: fp32([3], [1, 2, 3]), c: fp32([2, 1], [10, 20]) };
    const found = await runGraph(values, ({ r, c }) =>
      gradients(total(multiply(r as Value, c as Value)), [r as Value, c as Value]),
    );
    expect(found.map((g) => [...g])).toEqual([
      [30, 30, 30],
      [6, 6],
    ]);
  });

  it('are zeros where the loss does not depend, also behind stopGradient and comparisons', async () => {
    const [a, b] = await runGraph({ a: fp32([2], [1, 2]), b: fp32([3], [1, 2, 3]) }, ({ a, b }) =>
      gradients(total(multiply(stopGradient(a as Value), 5)), [a as Value, b as Value]),
    );
    expect([[...(a as Float64Array)], [...(b as Float64Array)]]).toEqual([
      [0, 0],
      [0, 0, 0],
    ]);
  });

  it('of a loss by itself are 1', async () => {
    expect(await gradientOf((x) => x, [1], [5])).toEqual([1]);
  });

  it('need one number to start from', () => {
    const graph = new Graph();
    const x = graph.input('x', [2], 'fp32');
    expectHadalError(() => gradients(x, [x]), 'HADAL_ERR_SHAPE', /loss of one element, got fp32 \[2\]/);
  });

  it('build only what is asked for', () => {
    const graph = new Graph();
    const [x, w, frozen] = ['x', 'w', 'frozen'].map((name) => graph.input(name, [8, 8], 'fp32')) as [
      Value,
      Value,
      Value,
    ];
    const loss = total(matmul(matmul(x, frozen), w));
    const forward = graph.nodes.length;
    const [dw] = gradients(loss, [w]);
    const built = graph.nodes.slice(forward).map(({ op }) => op.name);
    // One product for dw, none for x and the frozen weight.
    expect(built.filter((name) => name === 'matmul')).toEqual(['matmul']);
    graph.output('dw', dw as Value);
    expect(prune(graph).nodes.filter(({ op }) => op.name === 'matmul').length).toBe(2);
  });

  it('lie in the layer, predicate and queue of what they are gradients of', () => {
    const graph = new Graph();
    const x = graph.input('x', [4], 'fp32');
    const y = graph.scoped('layer', () => graph.onQueue('copy', () => exp(x)));
    const [dx] = gradients(total(y), [x]);
    expect(dx?.node).toMatchObject({ scope: 'layer', queue: 'copy' });
  });

  it('name the op and the layer that has none', () => {
    const graph = new Graph();
    const x = graph.input('x', [4], 'fp32');
    const opaque = { name: 'opaque', infer: () => [{ shape: [4], dtype: 'fp32' as const }] };
    const [y] = graph.scoped('model.layers.3', () => graph.add<object, [Value], [Value]>(opaque, [x], {}));
    expectHadalError(
      () => gradients(total(y), [x]),
      'HADAL_ERR_INTERNAL',
      /op 'opaque' in model\.layers\.3 has no gradient/,
    );
  });

  it('go through the lowered form where an op has no rule, inputs given twice included', async () => {
    const lowered = {
      name: 'product-and-sum',
      infer: ([a]: readonly (Value | null)[]) => [a as Value, a as Value].map(({ shape, dtype }) => ({ shape, dtype })),
      lower: ([a, b]: readonly (Value | null)[]) => [multiply(a as Value, b as Value), add(a as Value, b as Value)],
    };
    const build = (x: Value) => {
      const [product, both] = x.node.graph.add<object, [Value, Value], [Value, Value]>(lowered, [x, x], {});
      return total(add(product, multiply(both, 100)));
    };
    // The op has no kernel: gradients alone depend on its inputs only.
    const graph = new Graph();
    const x = graph.input('x', [2], 'fp32');
    const [dx] = gradients(build(x), [x]);
    graph.output('dx', dx as Value);
    expect(prune(graph).nodes.map(({ op }) => op.name)).not.toContain('product-and-sum');
    expect(await gradientOf(build, [2], [3, 4])).toEqual([206, 208]);
  });
});

// d/dx (g(x) · v) for g the gradient of a loss: against central differences of g, which the op tests prove.
describe('gradients of gradients', () => {
  const [T, D] = [5, 6];
  const cases: Record<string, (x: Value) => Value> = {
    elementwise: (x) => total(multiply(tanh(x), sigmoid(subtract(x, 0.3)))),
    silu: (x) => total(square(silu(x))),
    softmax: (x) => total(square(softmax(x))),
    'rms-norm': (x) => total(square(square(rmsNorm(x, fill(x.node.graph, [D], 0.7), 1e-5)))),
    'layer-norm': (x) => total(exp(layerNorm(x, fill(x.node.graph, [D], 0.7), fill(x.node.graph, [D], 0.1), 1e-5))),
    swiglu: (x) => total(square(swiglu(x))),
    matmul: (x) => total(exp(multiply(matmul(x, x, { transposeB: true }), 0.2))),
    attention: (x) => {
      const q = reshape(x, [1, T, 1, D]);
      return total(square(attention(q, multiply(q, 0.8), negate(q), { causal: true, scale: 0.4 })));
    },
    'linear-cross-entropy': (x) => {
      const graph = x.node.graph;
      const weight = graph.constant(
        Float32Array.from({ length: 9 * D }, (_, i) => Math.sin(i)),
        [9, D],
      );
      const labels = graph.constant(Int32Array.of(1, 8, 0, -100, 4), [T]);
      return linearCrossEntropy(x, weight, labels, fill(graph, [1], 0.25), { zLoss: 0.1, labelSmoothing: 0.1 }).loss;
    },
  };
  for (const [name, loss] of Object.entries(cases)) {
    it(`of ${name}`, async () => {
      const rng = new Rng(name);
      const numbers = () => Float64Array.from({ length: T * D }, () => Math.fround(rng.normal()));
      const [at, v] = [numbers(), numbers()];
      const [hv] = await runGraph({ x: fp32([T, D], at), v: fp32([T, D], v) }, ({ x, v }) => {
        const [g] = gradients(loss(x as Value), [x as Value]);
        return gradients(total(multiply(g as Value, v as Value)), [x as Value]);
      });
      const step = 1e-2;
      const gradientAt = (by: number) =>
        gradientOf(
          loss,
          [T, D],
          Array.from(at, (x, i) => x + by * (v[i] as number)),
        );
      // Fourth-order central differences: fp32 gradients allow no small step.
      const [a, b, c, d] = [
        await gradientAt(-2 * step),
        await gradientAt(-step),
        await gradientAt(step),
        await gradientAt(2 * step),
      ];
      const expected = b.map(
        (_, i) => ((a[i] as number) - 8 * (b[i] as number) + 8 * (c[i] as number) - (d[i] as number)) / (12 * step),
      );
      const size = Math.max(...expected.map(Math.abs));
      expect(size).toBeGreaterThan(1e-3);
      compare(`Hessian · v of ${name}`, hv as Float64Array, expected, { allowed: 2e-3 * size });
    });
  }

  it('of third order', async () => {
    // mean(x⁴) → 4x³/n → 12x²/n → 24x/n
    const thrice = (x: Value) => {
      let y = mean(square(square(x)), [0]);
      for (let i = 0; i < 2; i++) y = total(gradients(y, [x])[0] as Value);
      return y;
    };
    expect(await gradientOf(thrice, [2], [1, -3])).toEqual([12, -36]);
  });
});
