// A number that is not finite is planted in a layer, and the layer is named.
import { describe, expect, it } from 'vitest';
import type { PrecisionDType } from '../../src/passes/narrow.js';
import type { Tensor } from '../../src/runtime/tensor.js';
import {
  explainNumerics,
  isNumericsFault,
  type NumericsReport,
  numericsError,
} from '../../src/train/debug-numerics.js';
import type { UpdateInputs } from '../../src/train/stepper.js';
import { stepConfig, tinyBatch, tinyStepper, updateInputs } from './tiny.js';

/** Runs an update of a model in which `plant` has written, and explains it. */
async function explained(
  dtype: PrecisionDType,
  plant: (write: (name: string, change: (x: number, i: number) => number) => Promise<void>) => Promise<void>,
  { change = {}, accumulates = false }: { change?: Partial<UpdateInputs>; accumulates?: boolean } = {},
) {
  using tiny = await tinyStepper(stepConfig(2, 16, dtype), { accumulates });
  const { stepper } = tiny;
  await plant(async (name, edit) => {
    const tensor = stepper.tensors.get(name) as Tensor;
    await tensor.write((await tensor.toFloat32()).map(edit));
  });
  await stepper.refreshWorkingCopies();
  const window = [tinyBatch(1, [16, 11], 16), tinyBatch(2, [16, 16], 16)].slice(0, accumulates ? 2 : 1);
  const inputs = updateInputs(0, change);
  const result = await stepper.update(window, inputs);
  const about = { step: 1, lastFiniteStep: null, loss: result.loss, gradNorm: result.gradNorm, lossScale: null };
  return { result, report: await explainNumerics(stepper, window, inputs, about) };
}

const dtypes = ['fp32', 'bf16', 'fp16'] as const;
/** Greatest numbers that weights of a format keep. */
const greatest = { fp32: 3e38, bf16: 3e38, fp16: 6e4 };

describe.each(dtypes)('an update in %s', (dtype) => {
  it('that is sound has nothing to explain', async () => {
    const { result, report } = await explained(dtype, async () => {}, { accumulates: dtype === 'fp32' });
    expect(result.skipped).toBe(false);
    expect(isNumericsFault(result)).toBe(false);
    expect(report).toBeNull();
  });

  it('with a weight that is NaN names it, and what reads it first', async () => {
    const name = 'model.layers.1.mlp.shared_experts.down_proj.weight';
    const { result, report } = await explained(dtype, (write) => write(name, (x, i) => (i === 7 ? Number.NaN : x)));
    expect(isNumericsFault(result)).toBe(true);
    const copy = dtype === 'fp32' ? name : `working/${name}`;
    expect(report?.first).toMatchObject({
      name: copy,
      inputs: [],
      outputs: [{ shape: [24, 12], notFinite: 1, count: 288 }],
      readBy: { scope: 'model.layers.1.mlp.shared_experts', direction: 'forward' },
    });
    expect(numericsError(report as NumericsReport, 'report.json').message).toMatch(
      /^\[numerics\] step 1: '.*model\.layers\.1\.mlp.*' holds 1 of 288 numbers \(\w+ \[24, 12\]\) that are not finite; first read by '.+' in model\.layers\.1\.mlp\.shared_experts \(forward\); no step of this run was finite; report\.json tells more$/,
    );
  });

  it('whose product overflows in forward names op and layer, with what it read', async () => {
    const name = 'model.layers.1.mlp.experts.gate_up_proj';
    const { result, report } = await explained(dtype, (write) => write(name, () => greatest[dtype]));
    expect(isNumericsFault(result)).toBe(true);
    const first = report?.first as NumericsReport['first'];
    expect(first).toMatchObject({
      op: 'grouped-matmul',
      scope: 'model.layers.1.mlp',
      direction: 'forward',
      name: null,
    });
    expect(first.inputs.some(({ name: read }) => read?.endsWith(name))).toBe(true);
    for (const { notFinite, count } of first.inputs) expect([notFinite, count > 0]).toEqual([0, true]);
    expect(first.outputs.some(({ notFinite }) => notFinite > 0)).toBe(true);
    expect(report?.spread.length).toBeGreaterThan(5);
    expect(new Set(report?.spread.map(({ direction }) => direction))).toEqual(
      new Set(['forward', 'backward', 'update']),
    );
    expect(numericsError(report as NumericsReport, 'report.json').message).toMatch(
      /'grouped-matmul' in model\.layers\.1\.mlp \(forward\) made \d+ of \d+ numbers .* from finite inputs \(.+\)/,
    );
  });

  it('whose gradient alone overflows names op and layer of backward', async () => {
    const layer = 'model.layers.2.mlp.experts';
    const plant = async (write: (name: string, change: () => number) => Promise<void>) => {
      // Forward the two cancel; backward the second comes first.
      await write(`${layer}.gate_up_proj`, () => (dtype === 'fp16' ? 1e-3 : 1e-20));
      await write(`${layer}.down_proj`, () => greatest[dtype]);
    };
    const { result, report } = await explained(dtype, plant, { change: { mtpWeight: dtype === 'fp16' ? 1 : 1e4 } });
    expect(result.overflowed).toBe(true);
    expect(Number.isFinite(result.loss)).toBe(true);
    expect(report?.first).toMatchObject({ scope: 'model.layers.2.mlp', direction: 'backward', name: null });
  });
});

it('names the micro-batch', async () => {
  const { report } = await explained('fp32', (write) => write('model.norm.weight', () => Number.NaN), {
    accumulates: true,
  });
  expect(report).toMatchObject({
    microBatch: 0,
    first: { name: 'model.norm.weight', readBy: { direction: 'forward' } },
  });
});

it('overflow under a loss scale is ordinary, a loss that is not finite never', async () => {
  const { result } = await explained('fp32', async () => {});
  const of = (change: Partial<typeof result>) => isNumericsFault({ ...result, ...change });
  expect(of({ overflowed: true })).toBe(true);
  expect(of({ overflowed: true, lossScale: 1024 })).toBe(false);
  expect(of({ overflowed: true, lossScale: 1 })).toBe(true);
  expect(of({ loss: Number.NaN, lossScale: 1024 })).toBe(true);
});
