// Attention at sizes where its tiles, threads and instruction sets matter.
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { loadAddon } from '../../src/addon/addon.js';
import { gradients } from '../../src/autodiff/gradients.js';
import type { DType } from '../../src/core/dtype.js';
import { Graph, type Value } from '../../src/graph/graph.js';
import { attention } from '../../src/ops/attention.js';
import { cast, multiply } from '../../src/ops/elementwise.js';
import { sum } from '../../src/ops/reduce.js';
import { compile } from '../../src/runtime/compile.js';
import { openDevice } from '../../src/runtime/device.js';
import { relativeNorm } from '../support/compare.js';
import { lowerAll } from '../support/lower-all.js';
import { runGraph } from '../support/op-case.js';
import { Rng } from '../support/rng.js';
import type { Sizes } from './attention.cases.js';

interface TileCase extends Sizes {
  causal?: boolean;
  docIds?: number[];
  start?: number[];
}

const normals = (seed: string, count: number) => {
  const rng = new Rng(seed);
  return Float32Array.from({ length: count }, () => rng.normal());
};
const shapesOf = ({ B, T, S = T, H, G, D, E }: TileCase) => ({
  q: [B, T, H, D],
  k: [B, S, G, D],
  v: [B, S, G, E],
  weights: [B, T, H, E],
});

/** Output and the gradients of q, k and v, in fp32. */
function build(values: Record<string, Value>, { D, causal = true }: TileCase, dtype: DType): Value[] {
  const [q, k, v] = [values.q!, values.k!, values.v!].map((x) => cast(x, dtype)) as [Value, Value, Value];
  const { docIds = null, start = null } = values;
  const y = attention(q, k, v, { causal, scale: 1 / Math.sqrt(D), docIds, start });
  const loss = sum(multiply(cast(y, 'fp32'), values.weights!), [0, 1, 2, 3]);
  return [y, ...gradients(loss, [q, k, v])].map((x) => cast(x, 'fp32'));
}

const documents = (...runs: [length: number, id: number][]) =>
  runs.flatMap(([length, id]) => new Array<number>(length).fill(id));

describe('attention over tiles follows its lowered form', () => {
  const table: [string, TileCase][] = [
    ['odd head sizes', { B: 1, T: 130, H: 3, G: 3, D: 37, E: 51 }],
    ['wide heads, one of them', { B: 1, T: 300, H: 1, G: 1, D: 192, E: 128 }],
    ['heads of 96 and 64', { B: 2, T: 129, H: 2, G: 2, D: 96, E: 64 }],
    ['heads of 48 and 32, grouped queries', { B: 2, T: 150, H: 6, G: 2, D: 48, E: 32 }],
    ['all keys', { B: 1, T: 200, S: 93, H: 2, G: 1, D: 16, E: 80, causal: false }],
    [
      'documents across tiles',
      {
        B: 1,
        T: 300,
        H: 2,
        G: 2,
        D: 40,
        E: 24,
        docIds: documents([3, 0], [130, 1], [1, 2], [97, 3], [64, 4], [5, -1]),
      },
    ],
    [
      'documents both ways',
      { B: 1, T: 200, H: 1, G: 1, D: 33, E: 17, causal: false, docIds: documents([61, 0], [75, 1], [64, 2]) },
    ],
    ['caches', { B: 2, T: 70, S: 201, H: 4, G: 2, D: 48, E: 32, start: [0, 131] }],
  ];
  for (const dtype of ['fp32', 'bf16'] as const) {
    it.each(table)(`%s, ${dtype}`, async (_, sizes) => {
      const { B, T, docIds, start } = sizes;
      const inputs = Object.fromEntries(
        Object.entries(shapesOf(sizes)).map(([name, shape]) => {
          const data = normals(
            name,
            shape.reduce((a, b) => a * b, 1),
          );
          return [name, { shape, dtype: 'fp32' as DType, data: data as ArrayLike<number> }];
        }),
      );
      if (docIds) inputs.docIds = { shape: [B, T], dtype: 'int32', data: docIds };
      if (start) inputs.start = { shape: [B], dtype: 'int32', data: start };
      const fused = await runGraph(inputs, (values) => build(values, sizes, dtype));
      const lowered = await runGraph(inputs, (values) => build(values, sizes, dtype), lowerAll);
      for (const [i, expected] of lowered.entries()) {
        expect(relativeNorm(fused[i]!, expected), ['o', 'dq', 'dk', 'dv'][i]!).toBeLessThan(
          dtype === 'fp32' ? 2e-6 : 8e-3,
        );
      }
    });
  }
});

it.each([
  { B: 1, T: 520, H: 1, G: 1, D: 48, E: 32 },
  { B: 1, T: 200, H: 6, G: 3, D: 20, E: 28 },
])('attention in bf16 gives the same bits with any number of threads, T $T', async (sizes) => {
  const graph = new Graph();
  const shapes = Object.entries(shapesOf(sizes));
  const values = Object.fromEntries(shapes.map(([name, shape]) => [name, graph.input(name, shape, 'fp32')]));
  for (const [i, value] of build(values, sizes, 'bf16').entries()) graph.output(`out${i}`, value);
  const inputs = Object.fromEntries(
    shapes.map(([name, shape]) => [
      name,
      normals(
        name,
        shape.reduce((a, b) => a * b, 1),
      ),
    ]),
  );
  const results: Float32Array[][] = [];
  for (const threads of [1, 2, 3]) {
    using device = openDevice('cpu', { threads });
    const program = device.load(compile(graph, threads));
    const slots = Object.fromEntries(
      program.outputs.map((spec) => [spec.name, device.allocate(spec.shape, spec.dtype)]),
    );
    await device.run([{ program, slots, inputs }]);
    results.push(await Promise.all(Object.values(slots).map((tensor) => tensor.toFloat32())));
  }
  expect(results[1]).toEqual(results[0]);
  expect(results[2]).toEqual(results[0]);
});

describe('attention in bf16 on every instruction set', () => {
  const order = ['portable', 'avx2', 'avx512', 'avx512bf16'];
  const { isa } = loadAddon().features();
  const child = fileURLToPath(new URL('./attention-child.mjs', import.meta.url));
  const run = async (env: Record<string, string>) => {
    const { stdout } = await promisify(execFile)(process.execPath, [child], {
      env: { ...process.env, ...env },
      maxBuffer: 2 ** 28,
    });
    return JSON.parse(stdout) as { isa: string; outputs: number[][] };
  };
  const lesser = order.slice(0, order.indexOf(isa));
  it.skipIf(lesser.length === 0)(`${isa} agrees with ${lesser.join(', ')}`, async () => {
    const best = await run({});
    for (const name of lesser) {
      const got = await run({ HADAL_ISA: name });
      expect(got.isa).toBe(name);
      for (const [i, expected] of best.outputs.entries()) {
        expect(relativeNorm(got.outputs[i]!, expected), `${name}, output ${i}`).toBeLessThan(8e-3);
      }
    }
  });
});
