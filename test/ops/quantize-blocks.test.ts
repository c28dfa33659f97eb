import fc from 'fast-check';
import { expect, it } from 'vitest';
import { Graph } from '../../src/graph/graph.js';
import { dequantizeBlocks, partBytes, quantizeBlocks, sumBlocks } from '../../src/ops/quantize-blocks.js';
import { runKernel } from '../../src/runtime/run-kernel.js';
import { describeOp, expectHadalError, testDevice } from '../support/op-case.js';
import { Rng } from '../support/rng.js';
import { cases } from './quantize-blocks.cases.js';

describeOp('quantize-blocks', cases);

/** What all ranks get, and what each keeps. */
async function exchange(grads: readonly Float32Array[], residuals: readonly Float32Array[], factor: number) {
  const device = testDevice();
  const ranks = grads.length;
  const count = grads[0]!.length;
  const part = partBytes(count, ranks);
  const scale = Float32Array.of(factor);
  const sent = grads.map(() => new Uint8Array(ranks * part));
  for (const [r, grad] of grads.entries()) {
    await runKernel(device, 'quantize-blocks', { count, ranks }, [grad, residuals[r]!, scale, sent[r]!]);
  }
  const messages = new Uint8Array(ranks * part);
  const left = grads.map(() => new Float32Array(count));
  for (const [rank, grad] of grads.entries()) {
    const range = [rank * part, (rank + 1) * part] as const;
    const received = Uint8Array.from(sent.flatMap((message) => [...message.subarray(...range)]));
    const buffers = [received, sent[rank]!, grad, residuals[rank]!, scale, messages.subarray(...range), left[rank]!];
    await runKernel(device, 'sum-blocks', { count, ranks, rank }, buffers);
  }
  const sum = new Float32Array(count);
  await runKernel(device, 'dequantize-blocks', { count, ranks }, [messages, sum]);
  return { sum, residuals: left };
}

it('keeps all that the sum lacks, in the residuals of all ranks together', () => {
  const data = fc.record({
    ranks: fc.integer({ min: 1, max: 4 }),
    count: fc.integer({ min: 1, max: 3000 }),
    seed: fc.string(),
    factor: fc.constantFrom(0, 0.5, 1),
  });
  return fc.assert(
    fc.asyncProperty(data, async ({ ranks, count, seed, factor }) => {
      const rng = new Rng(seed);
      // Whole multiples of 2^-12 below 2^7: sums of them are exact in fp32, and so is all that follows.
      const number = () => Math.round(rng.normal() * 2 ** (rng.uniform() * 16)) / 4096;
      const numbers = () => Float32Array.from({ length: count }, number);
      const grads = Array.from({ length: ranks }, numbers);
      const before = Array.from({ length: ranks }, numbers);
      const { sum, residuals } = await exchange(grads, before, factor);
      for (let i = 0; i < count; i++) {
        const given = grads.reduce((total, grad, r) => total + grad[i]! + factor * before[r]![i]!, 0);
        const got = residuals.reduce((total, residual) => total + residual[i]!, sum[i]!);
        expect(Math.abs(got - given)).toBeLessThan(1e-5);
      }
    }),
    { numRuns: 25 },
  );
});

it('is off by at most half a step of each rounding', async () => {
  const rng = new Rng('steps');
  const grads = Array.from({ length: 3 }, () => Float32Array.from({ length: 2000 }, () => rng.normal()));
  const none = grads.map((grad) => new Float32Array(grad.length));
  const { sum } = await exchange(grads, none, 1);
  const most = (x: readonly number[]) => Math.max(...x.map(Math.abs));
  const exact = Array.from(sum, (_, i) => grads.reduce((total, grad) => total + grad[i]!, 0));
  const steps = [...grads.map((grad) => most([...grad]) / 127), most([...sum]) / 127];
  const allowed = steps.reduce((total, step) => total + 0.5 * step * (1 + 2 ** -7), 0);
  expect(most(exact.map((x, i) => x - sum[i]!))).toBeLessThan(allowed);
});

it('does not read a residual whose scale is 0, and lets what is not finite be seen', async () => {
  const zeros = new Float32Array(600);
  const bad = Float32Array.from(zeros, () => Number.NaN);
  const { sum, residuals } = await exchange([zeros, zeros], [bad, bad], 0);
  expect([...sum, ...residuals.flatMap((x) => [...x])].every((x) => x === 0)).toBe(true);
  for (const wrong of [Number.NaN, Number.POSITIVE_INFINITY]) {
    const grad = Float32Array.from(zeros, (_, i) => (i === 300 ? wrong : 1));
    const { sum } = await exchange([grad, zeros], [zeros, zeros], 1);
    expect(sum[300]).toBeNaN();
    expect(sum[0]).toBeCloseTo(1, 3);
  }
});

it('sends about a quarter of the bytes', () => {
  expect((2 * partBytes(1 << 20, 2)) / (4 << 20)).toBeCloseTo(0.252, 3);
});

it('refuses what does not fit', () => {
  const graph = new Graph();
  const x = graph.input('x', [512], 'fp32');
  const message = quantizeBlocks(x, null, 2);
  expectHadalError(
    () => quantizeBlocks(graph.input('h', [3], 'bf16'), null, 2),
    'HADAL_ERR_DTYPE',
    /grad of dtype fp32/,
  );
  const short = { value: graph.input('r', [511], 'fp32'), scale: graph.input('scale', [1], 'fp32') };
  expectHadalError(() => quantizeBlocks(x, short, 2), 'HADAL_ERR_SHAPE', /residual of shape \[512\]/);
  expectHadalError(() => dequantizeBlocks(message, [600], 2), 'HADAL_ERR_SHAPE', /messages of shape \[2, 516\]/);
  expectHadalError(
    () => sumBlocks(message, null, { ranks: 3, rank: 0, count: 512 }),
    'HADAL_ERR_SHAPE',
    /received of shape \[3, 258\]/,
  );
});
