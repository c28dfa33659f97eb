// Gradients of gradients: the Hessian-vector product of a whole small DeepSeek layer, attention and experts.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { gradients } from '../../src/autodiff/gradients.js';
import { sizeOf } from '../../src/core/shape.js';
import { Graph, type Value } from '../../src/graph/graph.js';
import { verify } from '../../src/graph/verify.js';
import { deepseek } from '../../src/models/deepseek.js';
import { deepseekConfig } from '../../src/models/deepseek-config.js';
import { type Parameter, ParameterScope } from '../../src/nn/parameters.js';
import { add, multiply } from '../../src/ops/elementwise.js';
import { linearCrossEntropy } from '../../src/ops/linear-cross-entropy.js';
import { sum } from '../../src/ops/reduce.js';
import { reshape } from '../../src/ops/shape.js';
import { compile } from '../../src/runtime/compile.js';
import { type Device, openDevice, type Program } from '../../src/runtime/device.js';
import type { Tensor } from '../../src/runtime/tensor.js';
import { relativeNorm } from '../support/compare.js';
import { Rng } from '../support/rng.js';

const model = deepseek(
  deepseekConfig({
    family: 'deepseek_v3',
    vocabSize: 23,
    hiddenSize: 12,
    intermediateSize: 16,
    moeIntermediateSize: 6,
    numHiddenLayers: 1,
    numAttentionHeads: 2,
    qLoraRank: 8,
    kvLoraRank: 6,
    qkNopeHeadDim: 4,
    qkRopeHeadDim: 4,
    vHeadDim: 5,
    nRoutedExperts: 8,
    nSharedExperts: 1,
    numExpertsPerTok: 3,
    nGroup: 4,
    topkGroup: 2,
    topkMethod: 'noaux_tc',
    routedScalingFactor: 2.5,
  }),
);
const [batch, tokens] = [1, 9];

type Vectors = Record<string, Float32Array>;

/** Loss, gradient g and Hessian-vector product H·v; v has a slot beside each parameter. */
function trace(parameters: Map<string, Parameter>): Graph {
  const graph = new Graph();
  const ids = (name: string) => graph.input(name, [batch, tokens], 'int32');
  const { hidden, head } = model.forward(new ParameterScope(graph, parameters), {
    tokens: ids('tokens'),
    positions: ids('positions'),
    docIds: ids('docIds'),
    mtpTokens: [],
    cache: null,
    dropoutKey: null,
  });
  const rows = reshape(hidden, [batch * tokens, -1]);
  const scale = graph.input('scale', [1], 'fp32');
  const { loss } = linearCrossEntropy(rows, head, reshape(ids('labels'), [-1]), scale, {
    zLoss: 0.01,
    labelSmoothing: 0.1,
  });
  const trained = [...parameters.values()].filter(({ trainable }) => trainable);
  const wrt = trained.map(({ name }) => graph.slots.get(name) as Value);
  const g = gradients(loss, wrt);
  const all = (x: Value) => x.shape.map((_, axis) => axis);
  const along = trained
    .map(({ name, shape }, i) => {
      const product = multiply(g[i] as Value, graph.slot(`direction ${name}`, shape, 'fp32'));
      return sum(product, all(product));
    })
    .reduce((a, b) => add(a, b));
  const hv = gradients(along, wrt);
  for (const [i, { name }] of trained.entries()) {
    graph.output(`gradient ${name}`, g[i] as Value);
    graph.output(`product ${name}`, hv[i] as Value);
  }
  verify(graph);
  return graph;
}

describe('Hessian-vector product of a DeepSeek layer', () => {
  let device: Device;
  let program: Program;
  const parameters = new Map<string, Parameter>();
  const point: Vectors = {};
  const names: string[] = [];

  beforeAll(() => {
    device = openDevice('cpu', { threads: 2 });
    program = device.load(compile(trace(parameters), device.target));
    const rng = new Rng('hessian point');
    for (const { name, shape, trainable } of parameters.values()) {
      const spread = name.includes('norm') ? 0.2 : name.includes('gate.weight') ? 1 : 0.5;
      const centre = name.includes('norm') ? 1 : 0;
      point[name] = Float32Array.from({ length: sizeOf(shape) }, () => centre + spread * rng.normal());
      if (trainable) names.push(name);
    }
  });
  afterAll(() => device.dispose());

  /** Gradient at a point and Hessian-vector product there along a direction, by parameter. */
  async function evaluate(at: Vectors, direction: Vectors): Promise<{ gradient: Vectors; product: Vectors }> {
    const slots: Record<string, Tensor> = {};
    for (const { name, shape, dtype } of program.slots) {
      const tensor = device.allocate(shape, dtype);
      slots[name] = tensor;
      const data = name.startsWith('direction ') ? direction[name.slice('direction '.length)] : at[name];
      if (data) await tensor.write(data);
    }
    const rng = new Rng('hessian tokens');
    const random = () => Int32Array.from({ length: batch * tokens }, () => rng.integer(model.vocabSize));
    const inputs = {
      tokens: random(),
      labels: random(),
      positions: Int32Array.from({ length: tokens }, (_, t) => t % 6),
      docIds: Int32Array.from({ length: tokens }, (_, t) => Math.floor(t / 6)),
      scale: Float32Array.of(1 / tokens),
    };
    await device.run([{ program, slots, inputs }]);
    const read = async (kind: string) =>
      Object.fromEntries(
        await Promise.all(
          names.map(async (name) => [name, await (slots[`${kind} ${name}`] as Tensor).toFloat32()] as const),
        ),
      );
    const found = { gradient: await read('gradient'), product: await read('product') };
    for (const tensor of Object.values(slots)) tensor.dispose();
    return found;
  }

  const direction = (seed: string): Vectors => {
    const rng = new Rng(seed);
    return Object.fromEntries(names.map((name) => [name, (point[name] as Float32Array).map(() => rng.normal())]));
  };
  const shifted = (by: number, v: Vectors): Vectors =>
    Object.fromEntries(
      Object.entries(point).map(([name, data]) => [name, data.map((x, i) => x + by * (v[name]?.[i] ?? 0))]),
    );
  const dot = (a: Vectors, b: Vectors) =>
    names.reduce(
      (total, name) => (a[name] as Float32Array).reduce((t, x, i) => t + x * (b[name]?.[i] as number), total),
      0,
    );

  it('agrees with finite differences of the gradient', async () => {
    const v = direction('v');
    const { product } = await evaluate(point, v);
    const h = 2e-4;
    const [ahead, behind] = [await evaluate(shifted(h, v), v), await evaluate(shifted(-h, v), v)];
    for (const name of names) {
      const difference = (ahead.gradient[name] as Float32Array).map(
        (x, i) => (x - (behind.gradient[name]?.[i] as number)) / (2 * h),
      );
      expect(Math.hypot(...difference), name).toBeGreaterThan(1);
      // fp32 leaves the difference about 1e-4 uncertain.
      expect(relativeNorm(product[name] as Float32Array, difference), name).toBeLessThan(1e-3);
    }
  });

  it('is symmetric: v·Hw = w·Hv', async () => {
    const [v, w] = [direction('v'), direction('w')];
    const [hv, hw] = [(await evaluate(point, v)).product, (await evaluate(point, w)).product];
    expect(Math.abs(dot(v, hw) / dot(w, hv) - 1)).toBeLessThan(1e-4);
  });
});
