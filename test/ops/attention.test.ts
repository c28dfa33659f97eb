import { describe, expect, it } from 'vitest';
import { gradients } from '../../src/autodiff/gradients.js';
import type { DType } from '../../src/core/dtype.js';
import { Graph, type Value } from '../../src/graph/graph.js';
import { type AttentionOptions, attention } from '../../src/ops/attention.js';
import { add, multiply, square } from '../../src/ops/elementwise.js';
import { sum } from '../../src/ops/reduce.js';
import { compile } from '../../src/runtime/compile.js';
import { openDevice } from '../../src/runtime/device.js';
import { compare } from '../support/compare.js';
import { lowerAll } from '../support/lower-all.js';
import { describeOp, expectHadalError, runGraph } from '../support/op-case.js';
import { Rng } from '../support/rng.js';
import { cases } from './attention.cases.js';

describeOp('attention', cases);

const normals = (seed: string, count: number) => {
  const rng = new Rng(seed);
  return Float32Array.from({ length: count }, () => rng.normal());
};
const total = (x: Value) =>
  sum(
    x,
    x.shape.map((_, axis) => axis),
  );
const fp32 = (shape: number[], data: ArrayLike<number>) => ({ shape, dtype: 'fp32' as DType, data });
const int32 = (shape: number[], data: ArrayLike<number>) => ({ shape, dtype: 'int32' as DType, data });

describe('attention refuses', () => {
  const build = (
    q: number[],
    k: number[],
    v: number[] | null,
    options: Partial<Record<'docIds' | 'start', number[]>> = {},
    causal = true,
  ) => {
    const graph = new Graph();
    const given = Object.fromEntries(
      Object.entries(options).map(([name, shape]) => [name, graph.input(name, shape, 'int32')]),
    );
    const values = v && graph.input('v', v, 'fp32');
    return attention(graph.input('q', q, 'fp32'), graph.input('k', k, 'fp32'), values, {
      causal,
      scale: 1,
      ...given,
    } as AttentionOptions);
  };
  const [q, k] = [
    [2, 5, 4, 6],
    [2, 5, 2, 6],
  ] as const;

  it.each<[string, () => unknown, RegExp]>([
    ['rank', () => build([2, 5, 6], [...k], [...k]), /q of rank 4, got fp32 \[2, 5, 6\]/],
    [
      'k of another head size',
      () => build([...q], [2, 5, 2, 7], [...k]),
      /k of shape \[2, \?, \?, 6\], got fp32 \[2, 5, 2, 7\]/,
    ],
    ['v of other tokens', () => build([...q], [...k], [2, 4, 2, 6]), /v of shape/],
    [
      'heads that do not group',
      () => build([...q], [2, 5, 3, 6], [2, 5, 3, 6]),
      /multiple of the heads of k and v, got 4 and 3/,
    ],
    [
      'causal over other tokens',
      () => build([...q], [2, 9, 2, 6], [2, 9, 2, 6]),
      /as many keys as queries without start, got 9 and 5/,
    ],
    ['docIds of another shape', () => build([...q], [...k], [...k], { docIds: [2, 4] }), /docIds of shape \[2, 5\]/],
    ['no v and no size of it', () => build([...q], [...k], null), /valueDim from 1 to 6 without v, got 0/],
    [
      'a cache that is too small',
      () => build([...q], [2, 4, 2, 6], [2, 4, 2, 6], { start: [2] }),
      /cache of at least as many keys/,
    ],
  ])('%s', (_, action, message) => expectHadalError(action, 'HADAL_ERR_SHAPE', message));

  it('other dtypes', () => {
    const graph = new Graph();
    const [a, b] = [graph.input('a', [...k], 'fp32'), graph.input('b', [...k], 'bf16')];
    expectHadalError(
      () => attention(a, b, b, { causal: false, scale: 1 }),
      'HADAL_ERR_DTYPE',
      /k of dtype fp32, got bf16/,
    );
  });

  it.each([[-1], [7]])('a run with start %i in a cache of 8', async (start) => {
    const x = fp32([1, 8, 1, 2], normals('cache', 16));
    const inputs = { q: fp32([1, 2, 1, 2], normals('q', 4)), k: x, v: x, start: int32([1], [start]) };
    const run = runGraph(inputs, ({ q, k, v, start }) => [
      attention(q!, k!, v!, { causal: true, scale: 1, start: start! }),
    ]);
    await expect(run).rejects.toMatchObject({
      code: 'HADAL_ERR_RUN',
      message: expect.stringContaining(`expected start + 2 queries within a cache of 8 keys, got start ${start}`),
    });
  });
});

describe('attention', () => {
  it('never reads keys that are not written yet', async () => {
    const [S, T, start] = [150, 3, 70];
    const later = (data: Float32Array) => data.fill(Number.NaN, (start + T) * 4);
    const inputs = {
      q: fp32([1, T, 2, 4], normals('q', T * 8)),
      k: fp32([1, S, 1, 4], later(normals('k', S * 4))),
      v: fp32([1, S, 1, 4], later(normals('v', S * 4))),
      start: int32([1], [start]),
    };
    const [o, dk] = await runGraph(inputs, ({ q, k, v, start }) => {
      const y = attention(q!, k!, v!, { causal: true, scale: 0.5, start: start! });
      return [y, ...gradients(total(square(y)), [k!])];
    });
    expect(o?.every(Number.isFinite)).toBe(true);
    expect(dk?.subarray(0, (start + T) * 4).every((x) => Number.isFinite(x) && x !== 0)).toBe(true);
    expect(dk?.subarray((start + T) * 4).every((x) => x === 0)).toBe(true);
  });

  it('fits in a cache what is no padding', async () => {
    const [T, H, D] = [3, 2, 6];
    const inputs = {
      q: fp32([2, T, H, D], normals('q', 2 * T * H * D)),
      k: fp32([2, 8, 1, D], normals('k', 16 * D)),
      docIds: int32([2, T], [0, -1, -1, -1, -1, -1]),
    };
    const run = async (start: number[]) =>
      (await runGraph({ ...inputs, start: int32([2], start) }, ({ q, k, docIds, start }) => [
        attention(q!, k!, k!, { causal: true, scale: 1, docIds: docIds!, start: start! }),
      ])) as [Float64Array];
    const [o] = await run([7, 8]);
    expect(o.subarray(0, H * D).every((x) => x !== 0)).toBe(true);
    expect(o.subarray(H * D).every((x) => x === 0)).toBe(true);
    await expect(run([8, 0])).rejects.toMatchObject({
      message: expect.stringContaining('expected start + 1 queries within a cache of 8 keys, got start 8'),
    });
  });

  it('decodes with a cache what it gives without', async () => {
    const [T, H, D] = [9, 2, 6];
    const data = normals('x', T * H * D);
    const x = fp32([1, T, H, D], data);
    const [whole] = await runGraph({ x }, ({ x }) => [attention(x!, x!, x!, { causal: true, scale: 0.4 })]);
    for (const t of [0, 4, 8]) {
      const row = [t * H * D, (t + 1) * H * D] as const;
      const inputs = { q: fp32([1, 1, H, D], data.subarray(...row)), x, start: int32([1], [t]) };
      const [one] = await runGraph(inputs, ({ q, x, start }) => [
        attention(q!, x!, x!, { causal: true, scale: 0.4, start: start! }),
      ]);
      compare(`token ${t}`, one!, whole!.subarray(...row), { allowed: 1e-6 });
    }
  });

  it('keeps scores far apart and far from zero finite', async () => {
    const x = fp32(
      [1, 70, 1, 2],
      normals('x', 140).map((value) => value * 1e4),
    );
    const [o, dx] = await runGraph({ x }, ({ x }) => {
      const y = attention(x!, x!, x!, { causal: true, scale: 1 });
      return [y, ...gradients(total(y), [x!])];
    });
    expect(o?.every(Number.isFinite) && dx?.every(Number.isFinite)).toBe(true);
  });

  it('gives the same bits with any number of threads that share a long cache', async () => {
    const [S, H, D, E] = [1100, 5, 250, 20];
    const graph = new Graph();
    const q = graph.input('q', [1, 1, H, D], 'fp32');
    const k = graph.input('k', [1, S, 1, D], 'fp32');
    const start = graph.input('start', [1], 'int32');
    graph.output('y', attention(q, k, null, { causal: true, scale: 0.3, start, valueDim: E }));
    const inputs = { q: normals('q', H * D), k: normals('k', S * D), start: Int32Array.of(1000) };
    const results: Float32Array[] = [];
    for (const threads of [1, 2, 3, 7]) {
      using device = openDevice('cpu', { threads });
      using y = device.allocate([1, 1, H, E], 'fp32');
      await device.run([{ program: device.load(compile(graph, threads)), slots: { y }, inputs }]);
      results.push(await y.toFloat32());
    }
    for (const other of results.slice(1)) expect(other).toEqual(results[0]);
  });

  it('gives the same bits with any number of threads', async () => {
    const [B, T, H, G, D] = [2, 100, 4, 2, 12];
    const graph = new Graph();
    const [q, k] = [graph.input('q', [B, T, H, D], 'fp32'), graph.input('k', [B, T, G, D], 'fp32')];
    const y = attention(q, k, k, { causal: true, scale: 0.3 });
    for (const [i, value] of [y, ...gradients(total(square(y)), [q, k])].entries()) graph.output(`out${i}`, value);
    const inputs = { q: normals('q', B * T * H * D), k: normals('k', B * T * G * D) };
    const results: Uint8Array[][] = [];
    for (const threads of [1, 2, 3]) {
      using device = openDevice('cpu', { threads });
      const program = device.load(compile(graph, threads));
      const slots = Object.fromEntries(
        program.outputs.map((spec) => [spec.name, device.allocate(spec.shape, spec.dtype)]),
      );
      await device.run([{ program, slots, inputs }]);
      results.push(await Promise.all(Object.values(slots).map((tensor) => tensor.read(new Uint8Array(tensor.bytes)))));
    }
    expect(results[1]).toEqual(results[0]);
    expect(results[2]).toEqual(results[0]);
  });

  it('can be differentiated twice, as its lowered form', async () => {
    const ids = [0, 0, 0, 1, 2, 2, 2, 2, -1, -1];
    const inputs = {
      q: fp32([1, 10, 4, 5], normals('q', 200)),
      k: fp32([1, 10, 2, 5], normals('k', 100)),
      v: fp32([1, 10, 2, 3], normals('v', 60)),
      docIds: int32([1, 10], ids),
    };
    const build = ({ q, k, v, docIds }: Record<string, Value>) => {
      const wrt = [q!, k!, v!];
      const y = attention(q!, k!, v!, { causal: true, scale: 0.5, docIds: docIds! });
      const first = gradients(total(multiply(y, square(y))), wrt);
      return gradients(
        first.map((gradient) => total(square(gradient))).reduce((a, b) => add(a, b)),
        wrt,
      );
    };
    const fused = await runGraph(inputs, build);
    const lowered = await runGraph(inputs, build, lowerAll);
    fused.forEach((gradient, i) => {
      const largest = Math.max(...gradient.map(Math.abs));
      expect(largest).toBeGreaterThan(0);
      compare(`second gradient ${i}`, gradient, lowered[i]!, { allowed: 2e-5 * largest });
    });
  });
});
