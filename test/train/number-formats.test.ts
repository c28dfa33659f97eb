// Runs whose layers are in several number formats, and the loss scale that keeps fp16 in range.
import { describe, expect, it } from 'vitest';
import { lossScaleSlot } from '../../src/optim/loss-scale.js';
import type { Tensor } from '../../src/runtime/tensor.js';
import type { StepConfig } from '../../src/train/step.js';
import type { Stepper } from '../../src/train/stepper.js';
import { relativeNorm } from '../support/compare.js';
import { stepConfig, tinyBatch, tinyStepper, updateInputs } from './tiny.js';

const slot = (stepper: Stepper, name: string) => stepper.tensors.get(name) as Tensor;
const scalarOf = async (stepper: Stepper, name: string) => (await slot(stepper, name).toFloat32())[0] as number;
const batch = tinyBatch(3, [16, 16], 16);

const withScale = (change: Partial<NonNullable<StepConfig['lossScale']>>): StepConfig => {
  const config = stepConfig(2, 16, 'fp16');
  if (!config.lossScale) throw new Error('no loss scale in fp16');
  return { ...config, lossScale: { ...config.lossScale, ...change } };
};

describe('the loss scale of fp16', () => {
  it('is in no other format', () => {
    for (const dtype of ['fp32', 'bf16', 'fp8'] as const) expect(stepConfig(1, 16, dtype).lossScale).toBeNull();
  });

  it('backs off where gradients overflow, leaves those updates out, and grows again', async () => {
    using run = await tinyStepper(withScale({ initial: 2 ** 24, growthInterval: 4 }));
    const { stepper } = run;
    const name = 'model.layers.0.self_attn.o_proj.weight';
    const before = await slot(stepper, name).toFloat32();
    const scales: number[] = [];
    const overflows: boolean[] = [];
    let losses = Number.NaN;
    for (let step = 0; step < 24; step++) {
      const { lossScale, overflowed, skipped, loss, gradNorm } = await stepper.update([batch], updateInputs(step));
      expect(skipped).toBe(overflowed);
      if (scales.length === 0) {
        expect(overflowed).toBe(true);
        expect(Number.isFinite(gradNorm)).toBe(false);
        expect(await slot(stepper, name).toFloat32()).toEqual(before);
        expect(await scalarOf(stepper, 'state/updates')).toBe(0);
        losses = loss;
      }
      scales.push(lossScale as number);
      overflows.push(overflowed);
    }
    expect(losses).toBeGreaterThan(3.9);
    // Every update's scale follows from the one before it.
    let good = 0;
    for (const [i, scale] of scales.slice(1).entries()) {
      good = overflows[i] ? 0 : good + 1;
      const expected = (scales[i] as number) * (overflows[i] ? 0.5 : good === 4 ? 2 : 1);
      if (good === 4) good = 0;
      expect(scale).toBe(expected);
    }
    const first = overflows.indexOf(false);
    expect(first).toBeGreaterThan(1);
    expect(scales.slice(first).some((scale, i) => scale > (scales[first + i - 1] as number))).toBe(true);
    expect(await scalarOf(stepper, 'state/updates')).toBe(overflows.filter((overflowed) => !overflowed).length);
    expect(await slot(stepper, name).toFloat32()).not.toEqual(before);
  });

  it('keeps gradients that fp16 could not hold otherwise', async () => {
    // The weight of the prediction module's loss makes its gradients small.
    const inputs = updateInputs(0, { mtpWeight: 1e-6, balanceWeight: 0 });
    const name = 'model.layers.2.self_attn.o_proj.weight';
    const gradient = async (config: StepConfig) => {
      using run = await tinyStepper(config, { accumulates: true });
      const { lossScale } = await run.stepper.update([batch], inputs);
      const values = await slot(run.stepper, `gradient/${name}`).toFloat32();
      return values.map((x) => x / (lossScale ?? 1));
    };
    const exact = await gradient(stepConfig(2, 16));
    expect(Math.max(...exact.map(Math.abs))).toBeGreaterThan(0);
    expect(relativeNorm(await gradient(withScale({ initial: 1 })), exact)).toBeGreaterThan(0.5);
    expect(relativeNorm(await gradient(withScale({ initial: 2 ** 15 })), exact)).toBeLessThan(0.02);
  });

  it('does not change what is computed, as long as all is in range', async () => {
    const outcome = async (initial: number) => {
      using run = await tinyStepper(withScale({ initial }));
      const { loss, gradNorm, clippedNorm } = await run.stepper.update([batch], updateInputs(0));
      return { loss, gradNorm, clippedNorm };
    };
    const [one, other] = [await outcome(2 ** 8), await outcome(2 ** 12)];
    expect(other.loss).toBeCloseTo(one.loss, 5);
    expect(other.gradNorm / one.gradNorm).toBeCloseTo(1, 2);
    expect(other.clippedNorm / one.clippedNorm).toBeCloseTo(1, 2);
  });

  it('goes on from where it was', async () => {
    using run = await tinyStepper(withScale({ growthInterval: 2 }));
    await slot(run.stepper, lossScaleSlot).write(Float32Array.of(512));
    const { lossScale } = await run.stepper.update([batch], updateInputs(0));
    expect(lossScale).toBe(512);
    await run.stepper.update([batch], updateInputs(1));
    expect(await scalarOf(run.stepper, lossScaleSlot)).toBe(1024);
    expect(run.stepper.stateSlots).toContain(lossScaleSlot);
  });
});

describe('layers in other formats', () => {
  const mixed = (dtype: 'fp32' | 'bf16', layers: StepConfig['precision']['layers']): StepConfig => {
    const config = stepConfig(2, 16, dtype);
    return { ...config, precision: { ...config.precision, layers } };
  };

  it.each([
    ['some experts in fp8', mixed('bf16', [{ match: '*.mlp', dtype: 'fp8' }])],
    ['nothing but products in fp8', mixed('fp32', [{ match: 'model.layers.0.mlp', dtype: 'fp8' }])],
    ['the first layer in fp32', mixed('bf16', [{ match: 'model.layers.0', dtype: 'fp32' }])],
    ['the head in fp32', mixed('bf16', [{ match: 'loss', dtype: 'fp32' }])],
    [
      'all of them',
      mixed('bf16', [
        { match: 'model.layers.0', dtype: 'fp32' },
        { match: 'model.layers.1', dtype: 'fp8' },
        { match: 'model.layers.2', dtype: 'fp16' },
      ]),
    ],
  ])('%s: the model learns', async (_, config) => {
    using run = await tinyStepper(config);
    const losses: number[] = [];
    for (let step = 0; step < 60; step++) losses.push((await run.stepper.update([batch], updateInputs(step))).loss);
    expect(losses[0]).toBeGreaterThan(3.9);
    expect(losses.at(-1)).toBeLessThan(1.5);
    expect(await run.stepper.evaluate(tinyBatch(3, [16, 16], 16))).toBeGreaterThan(0);
  });

  it('a pattern that no layer fits is refused', async () => {
    const config = mixed('bf16', [{ match: 'model.layers.9', dtype: 'fp32' }]);
    await expect(tinyStepper(config)).rejects.toThrow(
      expect.objectContaining({
        code: 'HADAL_ERR_CONFIG',
        message: expect.stringMatching(/'model\.layers\.9'.*matches none/),
      }),
    );
  });
});
