// Kernels that multiply matrices, each launched on the simulated GPU once: shared memory within the budgets, no conflicts of
// banks, and the processor's results.
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
// @ts-expect-error: plain JavaScript
import { readBudgets } from '../../scripts/cuda/budgets.mjs';
// @ts-expect-error: plain JavaScript
import { launchComplaints, multiplies } from '../../scripts/cuda/gates.mjs';
// @ts-expect-error: plain JavaScript
import { readLaunches } from '../../scripts/cuda/launches.mjs';
import { gradients } from '../../src/autodiff/gradients.js';
import { sizeOf } from '../../src/core/shape.js';
import { Graph, type Value } from '../../src/graph/graph.js';
import { attention } from '../../src/ops/attention.js';
import { cast, multiply } from '../../src/ops/elementwise.js';
import { groupedMatmul } from '../../src/ops/grouped-matmul.js';
import { matmul } from '../../src/ops/matmul.js';
import { sum } from '../../src/ops/reduce.js';
import { compile } from '../../src/runtime/compile.js';
import { type Device, openDevice } from '../../src/runtime/device.js';
import type { FloatDType } from '../support/compare.js';
import { fromFloats, toFloats } from '../support/float-bytes.js';
import { Rng } from '../support/rng.js';

const library = new URL('../../build/Release/hadal-cuda-sim.so', import.meta.url);
const folder = mkdtempSync(path.join(tmpdir(), 'hadal-launches-'));
// Both are read when the library first needs them.
const log = process.env.HADAL_SIM_LOG || path.join(folder, 'launches.jsonl');
process.env.HADAL_SIM_LOG = log;
process.env.HADAL_CUBLASLT = 'none';

type Shapes = Record<string, readonly number[]>;
type Build = (values: Record<string, Value>) => Value;

/** The sum of y · y, y = build(…), and its gradients by every float input. */
function traced(shapes: Shapes, dtype: FloatDType, build: Build, withGradients: boolean): Graph {
  const graph = new Graph();
  const values = Object.fromEntries(
    Object.entries(shapes).map(([name, shape]) => [
      name,
      graph.input(name, shape, name === 'offsets' ? 'int32' : dtype),
    ]),
  );
  const y = build(values);
  graph.output('y', cast(y, 'fp32'));
  if (!withGradients) return graph;
  const y32 = cast(y, 'fp32');
  const floats = Object.entries(values).filter(([name]) => name !== 'offsets');
  const found = gradients(
    sum(
      multiply(y32, y32),
      y.shape.map((_, i) => i),
    ),
    floats.map(([, value]) => value),
  );
  for (const [i, gradient] of found.entries()) graph.output(`d${i}`, cast(gradient as Value, 'fp32'));
  return graph;
}

async function outputsOn(
  device: Device,
  graph: Graph,
  inputs: Record<string, ReturnType<typeof fromFloats>>,
): Promise<Float64Array[]> {
  const program = device.load(compile(graph, device.target));
  const slots = Object.fromEntries(program.outputs.map((spec) => [spec.name, device.allocate(spec.shape, spec.dtype)]));
  await device.run([{ program, slots, inputs }]);
  return Promise.all(
    Object.values(slots).map(async (tensor) => {
      using own = tensor;
      return toFloats(await own.read(new Uint8Array(own.bytes)), 'fp32');
    }),
  );
}

describe.skipIf(!existsSync(library))('kernels that multiply matrices, on the simulated GPU', () => {
  let devices: Device[] = [];
  afterAll(() => {
    for (const device of devices) device.dispose();
    rmSync(folder, { recursive: true });
  });

  async function check(shapes: Shapes, dtype: FloatDType, build: Build, offsets: number[] = [], withGradients = true) {
    if (devices.length === 0) devices = ['cpu', 'cuda-sim'].map((name) => openDevice(name, { threads: 2 }));
    const rng = new Rng('launches');
    const inputs = Object.fromEntries(
      Object.entries(shapes).map(([name, shape]) => [
        name,
        name === 'offsets'
          ? fromFloats(offsets, 'int32')
          : fromFloats(
              Float64Array.from({ length: sizeOf(shape) }, () => rng.normal() / 4),
              dtype,
            ),
      ]),
    );
    const [expected, actual] = await Promise.all(
      devices.map((device) => outputsOn(device, traced(shapes, dtype, build, withGradients), inputs)),
    );
    for (const [i, numbers] of (expected as Float64Array[]).entries()) {
      const most = numbers.reduce((largest, x) => Math.max(largest, Math.abs(x)), 1e-6);
      const apart = numbers.reduce(
        (worst, x, at) => Math.max(worst, Math.abs(x - (actual?.[i]?.[at] ?? Number.NaN))),
        0,
      );
      expect(apart / most, `output ${i}`).toBeLessThan(0.02);
    }
  }

  for (const dtype of ['bf16', 'fp16'] as const) {
    for (const [D, E] of [
      [32, 32],
      [64, 64],
      [128, 128],
      [192, 128],
      [256, 256],
      [264, 264], // wider than tiles of tensor cores are
    ] as const)
      it(`attention of ${D} and ${E} numbers, ${dtype}`, () =>
        check({ q: [1, 70, 2, D], k: [1, 70, 1, D], v: [1, 70, 1, E] }, dtype, ({ q, k, v }) =>
          attention(q!, k!, v!, { causal: true, scale: D ** -0.5, docIds: null, start: null, valueDim: E }),
        ));
    it(`attention over latents, ${dtype}`, () =>
      check(
        { q: [1, 20, 4, 576], k: [1, 40, 1, 576] },
        dtype,
        ({ q, k }) => attention(q!, k!, null, { causal: false, scale: 0.1, docIds: null, start: null, valueDim: 512 }),
        [],
        false,
      ));
    for (const transposeA of [false, true])
      for (const transposeB of [false, true])
        it(`products of every tile${transposeA ? ', aᵀ' : ''}${transposeB ? ', bᵀ' : ''}, ${dtype}`, async () => {
          for (const [m, n, k] of [
            [8, 72, 72],
            [72, 72, 72],
            [264, 512, 40],
          ] as const)
            await check(
              { a: transposeA ? [k, m] : [m, k], b: transposeB ? [n, k] : [k, n] },
              dtype,
              ({ a, b }) => matmul(a!, b!, { transposeA, transposeB }),
              [],
              false,
            );
        });
    for (const transposeB of [false, true])
      it(`grouped products of every tile${transposeB ? ', wᵀ' : ''}, ${dtype}`, async () => {
        for (const [rows, n, k, split] of [
          [16, 72, 72, 5],
          [120, 72, 72, 50],
          [520, 256, 40, 260],
        ] as const)
          await check(
            { x: [rows, k], w: transposeB ? [2, n, k] : [2, k, n], offsets: [3] },
            dtype,
            ({ x, w, offsets }) => groupedMatmul(x!, w!, offsets!, { transposeB, outputDType: dtype }),
            [0, split, rows],
          );
      });
  }

  it('keep to their budgets, without conflicts, and none was left out', () => {
    expect(readFileSync(log, 'utf8')).not.toBe('');
    const launches = readLaunches(log);
    const families = Object.values(readBudgets() as Record<string, object>);
    expect(families.flatMap((family) => launchComplaints(family, launches))).toEqual([]);
    const kernels = families.flatMap((family) => Object.keys(family));
    const missing = kernels.filter(
      (name) =>
        /\b(?:Bf16|F16)\b/.test(name) && multiplies.some((one: RegExp) => one.test(name)) && !launches.has(name),
    );
    expect(missing).toEqual([]);
  });
});
