import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Graph } from '../../src/graph/graph.js';
import { concat, reshape } from '../../src/ops/shape.js';
import { topK, topKBytes, topKSum } from '../../src/ops/top-k.js';
import { openDevice } from '../../src/runtime/device.js';
import { runKernel } from '../../src/runtime/run-kernel.js';
import { roundTo } from '../support/compare.js';
import { describeOp, expectHadalError, runGraph, testDevice } from '../support/op-case.js';
import { Rng } from '../support/rng.js';
import { cases, greatest } from './top-k.cases.js';

describeOp('top-k', cases);

/** The places and numbers that a kernel call sends. */
async function sent(x: Float32Array, kept: number, device = testDevice()) {
  const message = new Uint8Array(topKBytes(kept));
  await runKernel(device, 'top-k', { count: x.length, kept }, [x, null, null, message, null]);
  const numbers = new Uint16Array(message.buffer, 4 * kept, kept);
  return { places: [...new Int32Array(message.buffer, 0, kept)], numbers: [...numbers] };
}

it('takes exactly k, of equal magnitudes the first', () => {
  const data = fc
    .record({
      x: fc.array(fc.oneof(fc.float({ noNaN: true }), fc.constantFrom(0, -0, 1, -1, 2 ** -140, -(2 ** -149))), {
        minLength: 1,
        maxLength: 300,
      }),
      share: fc.double({ min: 0, max: 1, noNaN: true }),
    })
    .map(({ x, share }) => ({ x, kept: Math.max(1, Math.round(share * x.length)) }));
  return fc.assert(
    fc.asyncProperty(data, async ({ x, kept }) => {
      expect((await sent(Float32Array.from(x), kept)).places).toEqual(greatest(x, kept));
    }),
  );
});

it('gives the same message with any number of threads', async () => {
  const rng = new Rng('threads');
  const x = Float32Array.from({ length: 100_003 }, () => Math.round(rng.normal() * 50) / 7);
  const expected = greatest(x, 1234);
  for (const threads of [1, 2, 3, 5]) {
    using device = openDevice('cpu', { threads });
    const { places, numbers } = await sent(x, 1234, device);
    expect(places).toEqual(expected);
    const values = [...new Float32Array(Uint32Array.from(numbers, (bits) => bits << 16).buffer)];
    expect(values).toEqual(expected.map((i) => roundTo('bf16', x[i]!)));
  }
});

describe('the sum', () => {
  const inputs = (...tensors: number[][]) =>
    Object.fromEntries(
      tensors.map((data, r) => [
        `x${r}`,
        { shape: [data.length], dtype: 'fp32' as const, data: Float32Array.from(data) },
      ]),
    );

  it('adds what several ranks chose', async () => {
    const given = inputs([1, -5, 0, 2], [3, 4, 0, 0], [0, 0, -8, 1]);
    const [y] = await runGraph(given, (values) => {
      const messages = Object.values(values).map((x) => reshape(topK(x, null, 2).message, [1, -1]));
      return [topKSum(concat(messages, 0), [4], 2)];
    });
    expect([...y!]).toEqual([3, -1, -8, 3]);
  });

  it('lets NaN and infinity through', async () => {
    const [y] = await runGraph(inputs([1, Number.NaN, 2, Number.NEGATIVE_INFINITY]), ({ x0 }) => [
      topKSum(reshape(topK(x0!, null, 2).message, [1, -1]), [4], 2),
    ]);
    expect([...y!]).toEqual([0, Number.NaN, 0, Number.NEGATIVE_INFINITY]);
  });

  it('refuses places that do not ascend', async () => {
    for (const places of [
      [3, 1],
      [2, 2],
    ]) {
      const message = new Uint8Array(topKBytes(2));
      new Int32Array(message.buffer, 0, 2).set(places);
      const run = runKernel(testDevice(), 'top-k-sum', { count: 4, kept: 2, ranks: 1 }, [message, new Float32Array(4)]);
      await expect(run).rejects.toThrow(/ascending places from rank 0/);
    }
  });
});

it('refuses what does not fit', () => {
  const x = new Graph().input('x', [8], 'fp32');
  for (const kept of [0, 9, 1.5]) expectHadalError(() => topK(x, null, kept), 'HADAL_ERR_SHAPE', /keep 1 to 8/);
  const { message } = topK(x, null, 3);
  expectHadalError(() => topKSum(reshape(message, [1, -1]), [8], 4), 'HADAL_ERR_SHAPE', /messages of shape \[\?, 24\]/);
});
