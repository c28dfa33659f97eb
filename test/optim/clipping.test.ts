import { describe, expect, it } from 'vitest';
import type { Value } from '../../src/graph/graph.js';
import { clipScale, globalNorm } from '../../src/optim/clipping.js';
import { runGraph } from '../support/op-case.js';
import { Rng } from '../support/rng.js';

/** Norm and scale of gradients of these shapes. */
async function clip(tensors: Record<string, { shape: number[]; data: number[] }>, clipNorm: number) {
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
    expect((await clip(tensors, 1)).norm / exact).toBeCloseTo(1, 6);
  });

  it('brings a greater norm down to the limit, as PyTorch does', async () => {
    const { norm, scale } = await clip(tensors, 1.5);
    expect(scale).toBeCloseTo(1.5 / (exact + 1e-6), 6);
    expect(norm * scale).toBeCloseTo(1.5, 5);
  });

  it('leaves a smaller norm as it is', async () => {
    expect((await clip(tensors, 100)).scale).toBe(1);
    expect(await clip({ zero: { shape: [4], data: [0, 0, 0, 0] } }, 1)).toEqual({ norm: 0, scale: 1 });
  });

  it('lets what is not finite be seen', async () => {
    const broken = (x: number) => clip({ a: { shape: [3], data: [1, x, 2] }, b: { shape: [2], data: [1, 1] } }, 1);
    expect((await broken(Number.NaN)).norm).toBeNaN();
    expect((await broken(Number.POSITIVE_INFINITY)).norm).toBe(Number.POSITIVE_INFINITY);
    // Finite numbers whose squares are not.
    expect((await broken(1e30)).norm).toBe(Number.POSITIVE_INFINITY);
  });
});
