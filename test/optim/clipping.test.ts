import { describe, expect, it } from 'vitest';
import { Graph, type Value } from '../../src/graph/graph.js';
import { cast, finite } from '../../src/ops/elementwise.js';
import { type ClipConfig, clip, clipScale, globalNorm, rememberNorm } from '../../src/optim/clipping.js';
import { runGraph } from '../support/op-case.js';
import { programRunner } from '../support/program-runner.js';
import { Rng } from '../support/rng.js';

/** Norm and scale of gradients of these shapes. */
async function byNorm(tensors: Record<string, { shape: number[]; data: number[] }>, clipNorm: number) {
  const inputs = Object.fromEntries(
    Object.entries(tensors).map(([name, tensor]) => [name, { ...tensor, dtype: 'fp32' as const }]),
  );
  const [norm, scale] = await runGraph(inputs, (values) => {
    const total = globalNorm(Object.keys(tensors).map((name) => values[name] as Value));
    return [total, clipScale(total, clipNorm)];
  });
  return { norm: norm?.[0] as number, scale: scale?.[0] as number };
}

describe('clipping', () => {
  const rng = new Rng(1);
  const random = (shape: number[]) => ({
    shape,
    data: Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => Math.fround(rng.normal())),
  });
  const tensors = { matrix: random([33, 21]), vector: random([7]), one: random([1]), cube: random([3, 5, 2]) };
  const exact = Math.sqrt(
    Object.values(tensors)
      .flatMap(({ data }) => data)
      .reduce((sum, x) => sum + x * x, 0),
  );

  it('takes the norm over all gradients together', async () => {
    expect((await byNorm(tensors, 1)).norm / exact).toBeCloseTo(1, 6);
  });

  it('brings a greater norm down to the limit, as PyTorch does', async () => {
    const { norm, scale } = await byNorm(tensors, 1.5);
    expect(scale).toBeCloseTo(1.5 / (exact + 1e-6), 6);
    expect(norm * scale).toBeCloseTo(1.5, 5);
  });

  it('leaves a smaller norm as it is', async () => {
    expect((await byNorm(tensors, 100)).scale).toBe(1);
    expect(await byNorm({ zero: { shape: [4], data: [0, 0, 0, 0] } }, 1)).toEqual({ norm: 0, scale: 1 });
  });

  it('lets what is not finite be seen', async () => {
    const broken = (x: number) => byNorm({ a: { shape: [3], data: [1, x, 2] }, b: { shape: [2], data: [1, 1] } }, 1);
    expect((await broken(Number.NaN)).norm).toBeNaN();
    expect((await broken(Number.POSITIVE_INFINITY)).norm).toBe(Number.POSITIVE_INFINITY);
    // Finite numbers whose squares are not.
    expect((await broken(1e30)).norm).toBe(Number.POSITIVE_INFINITY);
  });
});

describe('clip', () => {
  /** Clips a gradient of so many elements, update after update; what is not finite is not remembered. */
  function clipping(elements: number, config: Partial<ClipConfig>, scaled = false) {
    const whole = { norm: null, value: null, adaptive: null, ...config };
    const graph = new Graph();
    const grad = graph.input('grad', [elements], 'fp32');
    const lossScale = scaled ? graph.input('lossScale', [1], 'fp32') : null;
    const { grads, norm, clippedNorm, scale } = clip(graph, [grad], lossScale, whole);
    graph.predicated(cast(finite(norm), 'int32'), () => rememberNorm(graph, norm, whole));
    for (const [name, value] of Object.entries({ clipped: grads[0] as Value, norm, clippedNorm, scale }))
      graph.output(name, value);
    return programRunner(graph);
  }

  it('without bounds leaves gradients as they are', async () => {
    const run = await clipping(2, {});
    expect(await run({ grad: [30, 40] })).toEqual({ clipped: [30, 40], norm: [50], clippedNorm: [50], scale: [1] });
  });

  it('cuts elements first, then scales the norm of what is left', async () => {
    const run = await clipping(3, { value: 4, norm: 2.5 });
    const { clipped, norm, clippedNorm, scale } = await run({ grad: [3, -40, 0] });
    expect(clipped).toEqual([3, -4, 0]);
    expect(norm?.[0]).toBeCloseTo(Math.hypot(3, 40), 5);
    expect(scale?.[0]).toBeCloseTo(0.5, 6); // 2.5 / hypot(3, 4)
    expect(clippedNorm?.[0]).toBeCloseTo(2.5, 5);
  });

  it.each([null, 0.5])('takes the loss scale out of everything, value %s', async (value) => {
    const plain = await (await clipping(3, { value, norm: 0.7 }))({ grad: [0.3, -0.9, 0.6] });
    const scaled = await clipping(3, { value, norm: 0.7 }, true);
    const times = await scaled({ grad: [0.3, -0.9, 0.6].map((x) => x * 1024), lossScale: [1024] });
    expect(times.norm).toEqual(plain.norm);
    expect(times.clippedNorm).toEqual(plain.clippedNorm);
    expect(times.clipped?.map((x) => x / 1024)).toEqual(plain.clipped);
    expect((times.scale?.[0] as number) * 1024).toBe(plain.scale?.[0]);
  });

  it('follows a quantile of the last norms, the fixed bound above it', async () => {
    const adaptive = { quantile: 0.75, window: 4, factor: 2 };
    const run = await clipping(1, { adaptive, norm: 30 });
    const normAfter = async (x: number) => (await run({ grad: [x] })).clippedNorm?.[0] as number;
    expect(await normAfter(100)).toBeCloseTo(30, 3); // nothing is known: only the fixed bound
    // Known are 100; then 100 and 1; 100, 1, 2; and from then on the last four.
    expect(await normAfter(1)).toBe(1);
    expect(await normAfter(2)).toBe(2);
    expect(await normAfter(3)).toBe(3);
    expect(await normAfter(50)).toBeCloseTo(6, 4); // of 100, 1, 2, 3 three quarters are at most 3
    expect(await normAfter(50)).toBeCloseTo(6, 4); // of 1, 2, 3, 50 too
    expect(await normAfter(50)).toBeCloseTo(30, 3); // of 2, 3, 50, 50 at most 50: 100, but for the fixed bound
  });

  it('forgets nothing of an update that is left out', async () => {
    const run = await clipping(1, { adaptive: { quantile: 0.5, window: 2, factor: 1 } });
    await run({ grad: [4] });
    const before = await run({ grad: [4] });
    const broken = await run({ grad: [Number.NaN] });
    expect(broken['state/gradientNorms']).toEqual(before['state/gradientNorms']);
    expect(broken.norm?.[0]).toBeNaN();
  });
});
