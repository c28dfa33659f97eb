// Watching the outputs of layers: which they are, that the numbers are theirs, and that a step that is not watched is as if it
// were not there.
import { describe, expect, it } from 'vitest';
import { Graph, type Value } from '../../src/graph/graph.js';
import { verify } from '../../src/graph/verify.js';
import { add, multiply } from '../../src/ops/elementwise.js';
import { matmul } from '../../src/ops/matmul.js';
import { rmsNorm } from '../../src/ops/rms-norm.js';
import { runPasses } from '../../src/passes/pipeline.js';
import { isWatchedInput, markLayerOutputs, watchPrefix } from '../../src/passes/watch.js';
import { compile } from '../../src/runtime/compile.js';
import { traceStep } from '../../src/train/step.js';
import { testDevice } from '../support/op-case.js';
import { Rng } from '../support/rng.js';
import { stepConfig, tinyBatch, tinyModel, tinyStepper, updateInputs } from '../train/tiny.js';

/** Two layers of one product each between residual additions; another value leaves the first, too. */
function layered(): Graph {
  const graph = new Graph();
  const weight = graph.slot('weight', [8, 8], 'fp32');
  let x = graph.input('x', [4, 8], 'fp32');
  const scores: Value[] = [];
  for (const i of [0, 1]) {
    x = graph.scoped(`model.layers.${i}`, () => {
      const mixed = graph.scoped('mlp', () => {
        const scored = multiply(x, 2);
        scores.push(scored);
        return graph.scoped('down', () => matmul(scored, weight));
      });
      return add(x, mixed);
    });
  }
  graph.output('y', rmsNorm(x, graph.slot('norm', [8], 'fp32'), 1e-6));
  graph.output('scores', add(scores[0] as Value, scores[1] as Value));
  return graph;
}

describe('marks', () => {
  it('name layers and their parts, by the last value that leaves them', () => {
    const graph = layered();
    markLayerOutputs(graph);
    expect([...graph.watched.keys()].sort()).toEqual(
      ['model.layers.0', 'model.layers.0.mlp', 'model.layers.1', 'model.layers.1.mlp'].sort(),
    );
    expect(graph.watched.get('model.layers.0.mlp')?.node.op.name).toBe('matmul');
    expect(graph.watched.get('model.layers.1')?.node.op.name).toBe('add');
  });

  it('are of every layer of a model, those of prediction included', () => {
    const graph = traceStep(tinyModel(), stepConfig(2, 8), 'whole');
    const modules = [0, 1, 2].flatMap((i) => ['', '.self_attn', '.mlp'].map((part) => `model.layers.${i}${part}`));
    expect([...graph.watched.keys()].sort()).toEqual(modules.sort());
    for (const value of graph.watched.values()) expect(value.shape).toEqual([2, 8, 24]);
  });
});

describe('a watched program', () => {
  const rng = new Rng('watch');
  const weight = Float32Array.from({ length: 64 }, () => rng.normal());
  const x = Float32Array.from({ length: 32 }, () => rng.normal());

  async function run(graph: Graph, isWatched: number): Promise<Map<string, number[]>> {
    const device = testDevice();
    const program = device.load(compile(graph, device.target));
    const slots = Object.fromEntries(
      program.slots.map(({ name, shape, dtype }) => [name, device.allocate(shape, dtype)]),
    );
    await slots.weight?.write(weight);
    await slots.norm?.write(new Float32Array(8).fill(1));
    await device.run([{ program, slots, inputs: { x, [isWatchedInput]: Int32Array.of(isWatched) } }]);
    const found = new Map<string, number[]>();
    for (const [name, tensor] of Object.entries(slots)) {
      found.set(name, [...(await tensor.toFloat32())]);
      tensor.dispose();
    }
    return found;
  }

  it('measures what is marked, and gives the same results', async () => {
    const plain = await run(layered(), 0);
    const graph = layered();
    markLayerOutputs(graph);
    verify(runPasses(graph));
    const [watched, unwatched] = [await run(graph, 1), await run(graph, 0)];
    for (const name of ['y', 'scores']) {
      expect(watched.get(name)).toEqual(plain.get(name));
      expect(unwatched.get(name)).toEqual(plain.get(name));
    }
    const layer = (x: ArrayLike<number>) =>
      Array.from({ length: 32 }, (_, at) => {
        const [row, column] = [at - (at % 8), at % 8];
        let mixed = 0;
        for (let k = 0; k < 8; k++) mixed += 2 * (x[row + k] as number) * (weight[8 * k + column] as number);
        return { mixed, sum: mixed + (x[at] as number) };
      });
    const first = layer(x).map(({ sum }) => sum);
    const second = layer(first).map(({ mixed }) => mixed);
    const measured = (values: readonly number[]) =>
      [Math.min(...values), Math.max(...values), 0, 0, 32].map((number) => expect.closeTo(number, 3));
    expect(watched.get(`${watchPrefix}model.layers.0`)).toEqual(measured(first));
    expect(watched.get(`${watchPrefix}model.layers.1.mlp`)).toEqual(measured(second));
    // The product of the first layer is added to what it was made of as it is written: it is nowhere.
    expect(watched.has(`${watchPrefix}model.layers.0.mlp`)).toBe(false);
    expect(unwatched.get(`${watchPrefix}model.layers.0`)).toEqual([0, 0, 0, 0, 0]);
  });

  it('measures right behind what it looks at, in one predicated range that ends in slots', () => {
    const graph = layered();
    markLayerOutputs(graph);
    const { nodes } = runPasses(graph);
    const observers = nodes.filter(({ op }) => op.name === 'statistics');
    expect(observers).toHaveLength(3);
    for (const { inputs, predicate, id } of observers) {
      expect(predicate?.node.attrs.name).toBe(isWatchedInput);
      const between = nodes.slice((inputs[0] as Value).node.id + 1, id);
      expect(between.every(({ op }) => op.name === 'statistics')).toBe(true);
    }
  });
});

describe.each(['fp32', 'bf16'] as const)('an update in %s', (dtype) => {
  it('has the same bits, watched, unwatched, or without anything to watch with', async () => {
    const weightsAfter = async (watchesActivations: boolean, isWatched: boolean, accumulates: boolean) => {
      const config = { ...stepConfig(2, 16, dtype), watchesActivations };
      using tiny = await tinyStepper(config, { accumulates });
      const window = [tinyBatch(1, [16, 11], 16), tinyBatch(2, [16, 16], 16)].slice(0, accumulates ? 2 : 1);
      const results = [];
      for (const step of [0, 1]) results.push(await tiny.stepper.update(window, updateInputs(step, { isWatched })));
      const weights = await tiny.stepper.tensors.get('model.layers.1.mlp.experts.down_proj')?.toFloat32();
      return { weights: [...(weights as Float32Array)], results };
    };
    for (const accumulates of [false, true]) {
      const plain = await weightsAfter(false, false, accumulates);
      const off = await weightsAfter(true, false, accumulates);
      const on = await weightsAfter(true, true, accumulates);
      expect(off.weights).toEqual(plain.weights);
      expect(on.weights).toEqual(plain.weights);
      expect(off.results[1]?.activations).toBeNull();
      expect(on.results[1]?.loss).toBe(plain.results[1]?.loss);
      expect(on.results[1]?.activations).toHaveLength(9);
      for (const { where, smallest, greatest, notFinite, count } of on.results[1]?.activations ?? []) {
        expect(smallest, where).toBeLessThan(0);
        expect(greatest, where).toBeGreaterThan(0);
        expect([notFinite, count], where).toEqual([0, 2 * 16 * 24]);
      }
    }
  });

  it('keeps its measures out of what checkpoints hold', async () => {
    using tiny = await tinyStepper(stepConfig(2, 16, dtype));
    expect([...tiny.stepper.tensors.keys()].filter((name) => name.startsWith(watchPrefix))).toHaveLength(9);
    expect(tiny.stepper.stateSlots.filter((name) => name.startsWith(watchPrefix))).toEqual([]);
  });
});
