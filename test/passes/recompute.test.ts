import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { gradients } from '../../src/autodiff/gradients.js';
import { Graph, type Node, type Value } from '../../src/graph/graph.js';
import { verify } from '../../src/graph/verify.js';
import { modelFromConfig } from '../../src/models/families.js';
import { add, multiply, sigmoid, tanh } from '../../src/ops/elementwise.js';
import { matmul } from '../../src/ops/matmul.js';
import { sum } from '../../src/ops/reduce.js';
import { addRmsNorm, rmsNorm } from '../../src/ops/rms-norm.js';
import { bound, reshape } from '../../src/ops/shape.js';
import { fusions, ordering, runPasses } from '../../src/passes/pipeline.js';
import { recompute } from '../../src/passes/recompute.js';
import { recomputeCandidates } from '../../src/passes/recompute-candidates.js';
import { keptBy, type RecomputePolicy } from '../../src/passes/recompute-policy.js';
import { plan } from '../../src/runtime/plan.js';
import { type StepPart, traceStep } from '../../src/train/step.js';
import { defaultStepConfig } from '../../src/train/step-config.js';

const names = ({ nodes }: Graph) => nodes.filter(({ op }) => !op.isSource).map(({ op }) => op.name);
const lossOf = (value: Value) => reshape(sum(value, [0, 1], true), [1]);

describe('recompute', () => {
  it('computes again what is not kept, once, in order, and right before it is needed', () => {
    const graph = new Graph();
    const weight = graph.slot('w', [4, 4], 'fp32');
    const x = graph.input('x', [2, 4], 'fp32');
    const a = tanh(matmul(x, weight));
    const b = sigmoid(a);
    const [gradient] = gradients(lossOf(multiply(b, b)), [weight]);
    graph.output('gradient', gradient as Value);
    const product = a.node.inputs[0];

    const made = recompute(graph, (value) => value === product);
    verify(made);
    const again = made.nodes.filter(({ op, isBackward }) => isBackward && ['tanh', 'sigmoid'].includes(op.name));
    expect(again.map(({ op }) => op.name)).toEqual(['tanh', 'sigmoid']);
    // They read the product of the forward pass, which is there once.
    const [forward, ...others] = made.nodes.filter(({ op }) => op.name === 'matmul' && !op.isSource);
    expect(again[0]?.inputs[0]).toBe(forward?.outputs[0]);
    expect(others.every(({ isBackward }) => isBackward)).toBe(true);
    // Whoever is of backward reads what is computed again.
    for (const node of made.nodes.filter(({ isBackward }) => isBackward)) {
      const stale = node.inputs.filter((input) => input && !input.node.isBackward && input.node.op.name === 'sigmoid');
      expect(stale, node.op.name).toEqual([]);
    }
    // Nothing stands between what is computed again and its first reader.
    const last = again[1] as Node;
    expect(made.nodes[last.id + 1]?.inputs).toContain(last.outputs[0]);
  });

  it('leaves a graph alone whose values are all kept, and one without backward', () => {
    const graph = new Graph();
    const x = graph.slot('x', [2, 4], 'fp32');
    graph.output('y', tanh(sigmoid(x)));
    expect(recompute(graph, () => false)).toBe(graph);
    graph.output('gradient', gradients(lossOf(graph.outputs.get('y') as Value), [x])[0] as Value);
    expect(recompute(graph, () => true)).toBe(graph);
  });

  it('goes through views, and makes them anew', () => {
    const graph = new Graph();
    const x = graph.slot('x', [2, 4], 'fp32');
    const viewed = reshape(tanh(x), [4, 2]);
    const loss = lossOf(multiply(viewed, viewed));
    graph.output('loss', loss);
    graph.output('gradient', gradients(loss, [x])[0] as Value);
    const made = recompute(graph, () => false);
    verify(made);
    expect(names(made).filter((name) => name === 'tanh')).toHaveLength(2);
    const readers = made.nodes.filter(({ op, isBackward }) => isBackward && op.name === 'reshape');
    expect(readers.some(({ inputs }) => inputs[0]?.node.op.name === 'tanh' && inputs[0].node.isBackward)).toBe(true);
  });

  it('keeps results, what may be skipped, other queues, and what says how many rows are in use', () => {
    const graph = new Graph();
    const x = graph.slot('x', [2, 4], 'fp32');
    const flag = graph.input('flag', [1], 'int32');
    const result = tanh(x);
    graph.output('result', result);
    const elsewhere = graph.onQueue('copy', () => tanh(result));
    graph.predicated(flag, () => graph.update('x', tanh(x)));
    const extent = graph.alias(graph.input('rows', [1], 'int32'));
    const bounded = tanh(bound(x, extent));
    const product = multiply(multiply(result, elsewhere), bounded);
    graph.output('gradient', gradients(lossOf(product), [x])[0] as Value);
    const made = recompute(graph, () => false);
    verify(made);
    const again = made.nodes.filter(({ op, isBackward }) => isBackward && op.name === 'tanh');
    expect(again).toHaveLength(1);
    expect(again[0]?.outputs[0]?.extent).not.toBeNull();
    expect(names(made).filter((name) => name === 'alias')).toHaveLength(
      names(graph).filter((name) => name === 'alias').length,
    );
  });

  it('normalises a kept sum instead of adding again', () => {
    const graph = new Graph();
    const [x, residual] = ['x', 'y'].map((name) => tanh(graph.slot(name, [2, 4], 'fp32'))) as [Value, Value];
    const weight = graph.slot('weight', [4], 'fp32');
    const [y, , total] = addRmsNorm(x, residual, weight, 1e-6);
    const loss = lossOf(multiply(multiply(y, y), total));
    graph.output('gradient', gradients(loss, [graph.slots.get('x') as Value])[0] as Value);
    const made = recompute(graph, (value) => value === total || value === x);
    verify(made);
    const again = made.nodes.filter(({ op }) => op.name === 'rms-norm');
    expect(again.map(({ inputs }) => inputs[0]?.node.op.name)).toEqual(['add-rms-norm']);
    expect(names(made).filter((name) => name === 'add-rms-norm')).toHaveLength(1);
    expect(names(made).filter((name) => name === 'tanh')).toHaveLength(2);
  });
});

describe('policies', () => {
  /** Layers of a norm, two products and a residual. */
  function layered(layers: number): Graph {
    const graph = new Graph();
    const weights = Array.from({ length: layers }, (_, i) => graph.slot(`layers.${i}.w`, [64, 64], 'fp32'));
    let x = graph.input('x', [8, 64], 'fp32');
    const norm = graph.slot('norm', [64], 'fp32');
    for (const [i, weight] of weights.entries()) {
      x = graph.scoped(`layers.${i}`, () => {
        const hidden = tanh(matmul(rmsNorm(x, norm, 1e-6), weight));
        return add(x, matmul(hidden, weight));
      });
    }
    const found = gradients(lossOf(multiply(x, x)), weights);
    for (const [i, gradient] of found.entries()) graph.output(`gradient${i}`, gradient);
    return runPasses(graph, fusions);
  }

  const again = (graph: Graph, policy: RecomputePolicy) => {
    const kept = keptBy(graph, policy);
    const made = recompute(graph, (value) => kept.has(value));
    verify(made);
    const original = graph.nodes.filter(({ isBackward }) => isBackward).length;
    const backward = made.nodes.filter(({ isBackward }) => isBackward);
    const count = (scope: string, name: string) =>
      made.nodes.filter((node) => node.scope === scope && node.op.name === name).length -
      graph.nodes.filter((node) => node.scope === scope && node.op.name === name).length;
    return { added: backward.length - original, count };
  };

  it('none computes nothing again', () => {
    expect(again(layered(4), 'none').added).toBe(0);
  });

  it('every k layers computes the inside of all segments again but the last, whose products are kept', () => {
    const graph = layered(4);
    for (const every of [1, 2]) {
      const { count } = again(graph, { every });
      for (let layer = 0; layer < 4; layer++) {
        const isLast = layer >= 4 - every;
        expect(count(`layers.${layer}`, 'matmul'), `layer ${layer} of ${every}`).toBe(isLast ? 0 : 1);
        expect(count(`layers.${layer}`, 'tanh'), `layer ${layer} of ${every}`).toBe(1);
      }
    }
  });

  it('the square root of the layers is the size of its segments', () => {
    const graph = layered(9);
    expect([...keptBy(graph, 'sqrt')]).toEqual([...keptBy(graph, { every: 3 })]);
  });

  it('selective keeps products', () => {
    const { count } = again(layered(3), 'selective');
    for (let layer = 0; layer < 3; layer++) {
      expect(count(`layers.${layer}`, 'matmul')).toBe(0);
      expect(count(`layers.${layer}`, 'tanh')).toBe(1);
    }
  });
});

// The small twin of `npm run accept -- checkpointing`: its memory is planned here, too; its times are measured there.
describe('of the 116 M DeepSeek at 8 × 512', () => {
  const model = modelFromConfig(
    JSON.parse(readFileSync(new URL('../../bench/peers/deepseek-116m.json', import.meta.url), 'utf8')),
  );
  const step = defaultStepConfig({ batch: 8, seqLen: 512 }, 'bf16');
  const gradientBytes = [...traceStep(model, step, 'apply').slots]
    .filter(([name]) => name.startsWith('gradient/'))
    .reduce((total, [, slot]) => total + slot.bytes, 0);
  /** Arena without gradients, which are slots of their own where micro-batches are accumulated. */
  const activations = (part: StepPart, graph: Graph) =>
    plan(graph, 2).arenaBytes - (part === 'whole' ? gradientBytes : 0);
  const traced = (part: StepPart) => runPasses(traceStep(model, step, part), fusions);

  it.each(['whole', 'first', 'next'] as const)('the activations of program %s are cut by 80 %', (part) => {
    const graph = traced(part);
    const of = (policy: RecomputePolicy) => {
      const kept = keptBy(graph, policy);
      return activations(
        part,
        runPasses(
          graph,
          ordering((value) => kept.has(value)),
        ),
      );
    };
    const none = of('none');
    expect(of({ every: 1 }) / none).toBeLessThan(0.2);
    expect(of({ every: 2 }) / none).toBeLessThan(0.5);
    expect(of('sqrt') / none).toBeLessThan(0.5);
    expect(of('selective') / none).toBeLessThan(0.55);
  });

  it('latent heads and up-projections of every layer are computed again by selective, attention is not', () => {
    const graph = traced('first');
    const kept = keptBy(graph, 'selective');
    const made = recompute(graph, (value) => kept.has(value));
    const count = (of: Graph, name: string, weight = '') =>
      of.nodes.filter(
        ({ op, inputs }) =>
          op.name === name && (!weight || inputs.some((input) => String(input?.node.attrs.name).includes(weight))),
      ).length;
    for (const name of ['latent-heads', 'swiglu', 'permute'])
      expect(count(made, name), name).toBe(2 * count(graph, name));
    for (const name of ['attention', 'grouped-matmul']) expect(count(made, name), name).toBe(count(graph, name));
    // A weight is read forward, again, and by the gradient of its input.
    expect([count(graph, 'matmul', 'kv_b_proj'), count(made, 'matmul', 'kv_b_proj')]).toEqual([16, 24]);
    expect([count(graph, 'matmul', 'q_a_proj'), count(made, 'matmul', 'q_a_proj')].at(-1)).toBe(
      count(graph, 'matmul', 'q_a_proj'),
    );
  });

  it('candidates within a budget take ever less memory for ever more work', () => {
    const graph = traced('first');
    const candidates = recomputeCandidates(graph);
    expect(candidates.length).toBeGreaterThan(50);
    const points = [0, 0.25, 0.55, 0.8, 1].map((share) => {
      const kept = candidates[Math.round(share * (candidates.length - 1))] as (value: Value) => boolean;
      const { arenaBytes, instructions } = plan(runPasses(graph, ordering(kept)), 2);
      return { arenaBytes, flops: instructions.reduce((total, { flops }) => total + flops, 0) };
    });
    for (const [i, point] of points.slice(1).entries()) {
      expect(point.arenaBytes).toBeLessThan((points[i] as typeof point).arenaBytes);
      expect(point.flops).toBeGreaterThan((points[i] as typeof point).flops);
    }
    // The first half of the memory is nearly free.
    const [first, last] = [points[0], points.at(-1)] as [(typeof points)[0], (typeof points)[0]];
    const half = points.find(({ arenaBytes }) => arenaBytes < 0.6 * first.arenaBytes);
    expect((half?.flops as number) - first.flops).toBeLessThan(0.25 * (last.flops - first.flops));
  });
});
